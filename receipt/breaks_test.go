package receipt

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
)

// breaks are two breaks whose transactions are anchors of the test log.
func (w *world) breaks() []Break {
	w.tb.Helper()
	spend := *w.issue(entryDocument).Anchor
	operator := testKey(w.tb, StatementKeyName(w.id.Origin), "")
	var list []Break
	for i := range byte(2) {
		signed, err := statement.Sign(operator, statement.Break{Log: w.id.Hash(), Coin: calpe.Outpoint{Vout: uint32(i)},
			First: calpe.Outpoint{TxID: calpe.BlockHash{i + 1}}, Reason: "r", Time: testTime})
		if err != nil {
			w.tb.Fatal(err)
		}
		list = append(list, Break{After: uint64(i), Spend: spend, Statement: signed, Salt: calpe.Salt{i}, Index: 7})
	}
	return list
}

func TestBreaksFile(t *testing.T) {
	w := newWorld(t, testOrigin)
	want := w.breaks()
	data, err := EncodeBreaks(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBreaks(data)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d breaks, %v", len(got), err)
	}
	for i := range got {
		if got[i].Statement.Digest() != want[i].Statement.Digest() || got[i].Body() != want[i].Body() || got[i].Leaf() != want[i].Leaf() {
			t.Errorf("break %d: %+v", i, got[i].Body())
		}
		if d := cmp.Diff(want[i].Spend, got[i].Spend); d != "" {
			t.Error(d)
		}
	}
	entry := calpe.Entry{Index: 7, Commitment: calpe.Commit(want[0].Statement.Digest(), want[0].Salt)}.Bytes()
	if got[0].Leaf() != merkle.LeafHash(entry[:]) {
		t.Error("the leaf isn't that of the statement's entry")
	}
	if none, err := DecodeBreaks(nil); err != nil || len(none) != 0 {
		t.Errorf("of nothing: %v, %v", none, err)
	}
	if (Break{}).Body() != (statement.Break{}) {
		t.Error("no statement says something")
	}
}

func TestBreaksFileRefuses(t *testing.T) {
	w := newWorld(t, testOrigin)
	data, err := EncodeBreaks(w.breaks())
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	line := text[:strings.Index(text, "\n")+1]
	other, err := statement.Sign(w.agency, statement.Recovery{Log: w.id.Hash(), Reason: "r", Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	signed := string(w.breaks()[0].Statement.Bytes())
	for name, tc := range map[string]struct{ text, want string }{
		"cut off":              {text[:len(text)-1], "newline"},
		"no object":            {"7\n", "line 1"},
		"unknown member":       {strings.Replace(text, `{"after"`, `{"a":"b","after"`, 1), "/a"},
		"no salt":              {strings.Replace(text, `"salt":`, `"salz":`, 1), "/salz"},
		"another statement":    {strings.Replace(text, signed, string(other.Bytes()), 1), "isn't a calpe/break/v1"},
		"index above a log":    {strings.Replace(text, `"index":7`, `"index":1099511627776`, 1), "largest log"},
		"no transaction":       {strings.Replace(text, `"transaction":"`, `"transaction":"00`, 1), "transaction"},
		"the second is broken": {line + "{}\n", "line 2"},
		"too many":             {strings.Repeat(line, MaxBreaks+1), "more than 64"},
		"too large":            {strings.Repeat(" ", MaxBreaksSize+1), "bytes"},
	} {
		if _, err := DecodeBreaks([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if _, err := EncodeBreaks([]Break{{}}); err == nil {
		t.Error("a break without a statement was written")
	}
}

// Whatever stands in the file, reading ends, and what is read is written as it was.
func FuzzBreaksFile(f *testing.F) {
	data, err := EncodeBreaks(newWorld(f, testOrigin).breaks())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := DecodeBreaks(data)
		if err != nil {
			return
		}
		again, err := EncodeBreaks(list)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeBreaks(again)
		if err != nil || len(back) != len(list) {
			t.Fatalf("%d of %d breaks: %v", len(back), len(list), err)
		}
		if third, err := EncodeBreaks(back); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("written differently: %v", err)
		}
	})
}
