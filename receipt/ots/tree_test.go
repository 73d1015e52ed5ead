package ots

import (
	"encoding/json"
	"testing"
)

func TestTree(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"attested at once": {block(5), `{"attestations":["Bitcoin block 5"]}`},
		"a line":           {"\xf0\x02ab\x08" + block(5), `{"operations":["append 6162","sha256"],"attestations":["Bitcoin block 5"]}`},
		"a fork": {"\x08\xff\xf0\x01a\xf2" + block(5) + "\xf1\x01b" + pendingAt("https://a"),
			`{"operations":["sha256"],"branches":[{"operations":["append 61","reverse"],"attestations":["Bitcoin block 5"]},` +
				`{"operations":["prepend 62"],"attestations":["pending at https://a"]}]}`},
		"attested on the way": {"\x08\xff" + pendingAt("https://a") + "\xf0\x01a\x08" + block(5),
			`{"operations":["sha256"],"attestations":["pending at https://a"],"branches":[{"operations":["append 61","sha256"],"attestations":["Bitcoin block 5"]}]}`},
		"hostile": {attested("\x1b[2J....", "\x1b[2J"), `{"attestations":["unknown notary 1b5b324a2e2e2e2e, 4 bytes"]}`},
	} {
		tree := mustParse(t, otsFile(c.body)).Timestamp().Tree()
		if got, err := json.Marshal(tree); err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
	if got, err := json.Marshal(Timestamp{}.Tree()); err != nil || string(got) != "{}" {
		t.Errorf("of nothing: %s, %v", got, err)
	}
	// Who changes a tree doesn't change the timestamp.
	ts := mustParse(t, otsFile(block(5))).Timestamp()
	ts.Tree().Attestations[0] = BitcoinBlock(9)
	if got, _ := json.Marshal(ts.Tree()); string(got) != `{"attestations":["Bitcoin block 5"]}` {
		t.Errorf("changed to %s", got)
	}
}
