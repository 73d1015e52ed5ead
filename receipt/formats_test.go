package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
)

// section of docs/formats.md: from its heading to the next one of any level.
func section(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/formats.md has no heading %q", heading)
	}
	if end := regexp.MustCompile(`(?m)^#+ `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// rows are the cells of all tables in a part of the page, without their heads.
func rows(part string) (rows [][]string) {
	head := true
	for line := range strings.Lines(part) {
		if !strings.HasPrefix(line, "|") {
			head = true
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		if strings.HasPrefix(cells[0], "---") {
			head = false
			continue
		}
		if !head {
			rows = append(rows, cells)
		}
	}
	return rows
}

// members are the names in backquotes in the first column.
func members(part string) []string {
	var names []string
	for _, row := range rows(part) {
		for _, match := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[0], -1) {
			names = append(names, match[1])
		}
	}
	slices.Sort(names)
	return names
}

// TestWorkedExample computes the page's example with nothing but SHA-256, and
// then with the code.
func TestWorkedExample(t *testing.T) {
	text := section(t, "## Worked example")
	example := map[string][]byte{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9 -]+?) *= ([0-9a-f]+)$`).FindAllStringSubmatch(text, -1) {
		value, err := hex.DecodeString(m[2])
		if err != nil {
			t.Fatal(err)
		}
		example[m[1]] = value
	}
	sum := func(parts ...[]byte) []byte {
		h := sha256.Sum256(bytes.Join(parts, nil))
		return h[:]
	}
	want := map[string][]byte{"document": []byte("Hello, Calpe.\n"), "salt": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}
	want["digest"] = sum(want["document"])
	want["commitment"] = sum(want["digest"], want["salt"])
	index := func(i byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, i} }
	want["entry 0"] = slices.Concat(index(0), bytes.Repeat([]byte{0x11}, 32))
	want["entry 1"] = slices.Concat(index(1), want["commitment"])
	want["entry 2"] = slices.Concat(index(2), make([]byte, 32))
	for _, i := range []string{"0", "1", "2"} {
		want["leaf "+i] = sum([]byte{0}, want["entry "+i])
	}
	want["node 0-1"] = sum([]byte{1}, want["leaf 0"], want["leaf 1"])
	want["root"] = sum([]byte{1}, want["node 0-1"], want["leaf 2"])
	want["path of 1"] = slices.Concat(want["leaf 0"], want["leaf 2"])
	want["payload"] = slices.Concat([]byte{0x43, 0x4c, 0x50, 0, 0, 0, 0, 3}, want["root"])
	want["script"] = slices.Concat([]byte{0x6a, 0x28}, want["payload"])
	if d := cmp.Diff(want, example); d != "" {
		t.Errorf("the example on the page (-computed +page):\n%s", d)
	}
	for _, encoded := range []string{
		"`" + base64.StdEncoding.EncodeToString(want["path of 1"]) + "`",
		"log.calpe.example\n3\n" + base64.StdEncoding.EncodeToString(want["root"]) + "\n",
	} {
		if !strings.Contains(text, encoded) {
			t.Errorf("the page lacks %q", encoded)
		}
	}
	checkExample(t, example)
}

// checkExample holds the code to the example.
func checkExample(t *testing.T, example map[string][]byte) {
	t.Helper()
	digest := calpe.Digest(sha256.Sum256(example["document"]))
	entries := []calpe.Entry{{Commitment: calpe.Commitment(bytes.Repeat([]byte{0x11}, 32))},
		{Index: 1, Commitment: calpe.Commit(digest, calpe.Salt(example["salt"]))}, {Index: 2, Commitment: calpe.VoidCommitment}}
	var leaves []calpe.Hash
	for i, e := range entries {
		b := e.Bytes()
		leaves = append(leaves, merkle.LeafHash(b[:]))
		if !bytes.Equal(leaves[i][:], example[fmt.Sprint("leaf ", i)]) {
			t.Errorf("leaf %d is %s", i, leaves[i])
		}
	}
	root := merkle.Root(leaves)
	if script := (calpe.Payload{Size: 3, Root: root}).Script(); !bytes.Equal(script, example["script"]) {
		t.Errorf("script is %x", script)
	}
	path, err := merkle.InclusionPath(leaves, 1)
	if err != nil {
		t.Fatal(err)
	}
	if text := encodeHashes(path); string(text) != base64.StdEncoding.EncodeToString(example["path of 1"]) {
		t.Errorf("path is %s", text)
	}
}

// TestReasonsOfThePage: the page lists just the reasons that the code has, and
// the vectors show each of them.
func TestReasonsOfThePage(t *testing.T) {
	source, err := os.ReadFile("report.go")
	if err != nil {
		t.Fatal(err)
	}
	code := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\tReason\w+ +Reason = "([a-z-]+)"$`).FindAllStringSubmatch(string(source), -1) {
		code[m[1]] = true
	}
	page := map[string]bool{}
	shown := map[string]bool{"": true}
	for _, v := range newWorld(t, testOrigin).verifications() {
		for _, answer := range []string{v.Want.Existed, v.Want.InLog, v.Want.Certified} {
			shown[answer] = true
		}
	}
	for _, row := range rows(section(t, "### Reasons")) {
		reason := strings.Trim(row[0], "`")
		page[reason] = true
		if !shown[row[1]+" "+reason] {
			t.Errorf("no row of TestVerify ends in %q", row[1]+" "+reason)
		}
	}
	if d := cmp.Diff(code, page); d != "" || len(code) < 20 {
		t.Errorf("reasons (-code +page):\n%s", d)
	}
}

func TestNetworksOfThePage(t *testing.T) {
	got := map[string]string{}
	for _, row := range rows(section(t, "## Log identity")) {
		if m := regexp.MustCompile("^`([0-9a-f]{64})`$").FindStringSubmatch(row[1]); m != nil {
			got[strings.Trim(row[0], "`")] = m[1]
		}
	}
	want := map[string]string{}
	for _, n := range []calpe.Network{calpe.Mainnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet, calpe.Regtest, calpe.Simnet} {
		want[string(n)] = doubleHash(genesis(t, n)).String()
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("genesis blocks (-code +page):\n%s", d)
	}
}

func TestSizesOfThePage(t *testing.T) {
	want := [][]string{
		{"digest, commitment, leaf, node, root, log identity", fmt.Sprint(calpe.HashSize)},
		{"salt", fmt.Sprint(calpe.SaltSize)},
		{"entry", fmt.Sprint(calpe.EntrySize)},
		{"payload", fmt.Sprint(calpe.PayloadSize)},
		{"payload script", fmt.Sprint(len(calpe.Payload{}.Script()))},
		{"block header", fmt.Sprint(calpe.HeaderSize)},
		{"largest log", "2^40 - 1 entries"},
		{"inclusion path", fmt.Sprintf("at most %d hashes", maxPath)},
		{"block branch", fmt.Sprintf("at most %d hashes", maxBranch)},
		{"transaction, coinbase", "at most 100,000 each"},
		{"operations of a timestamp", "at most 10,000 in all, 255 operations; argument and message at most 4,096"},
		{"log identity, as written", "at most 16,384"},
		{"note", "at most 32,768"},
		{"signed statement, as written, alone or in a receipt", "at most 16,384"},
		{"receipt, as written", "at most 1,048,576"},
	}
	if d := cmp.Diff(want, rows(section(t, "## Sizes and limits"))); d != "" {
		t.Errorf("sizes (-code +page):\n%s", d)
	}
	if calpe.MaxLogSize != 1<<40-1 || MaxTransactionSize != 100_000 || MaxOperationsBytes != 10_000 || MaxOperations != 255 || maxMessage != 4096 || MaxIdentitySize != 16_384 || MaxNoteSize != 32_768 ||
		statement.MaxSize != 16_384 || MaxSize != 1_048_576 {
		t.Error("a constant isn't what the page says")
	}
}

func TestMembersOfThePage(t *testing.T) {
	w := newWorld(t, testOrigin)
	full := w.issue(entryDocument)
	full.Acknowledgement = w.issuedPromise()
	full.Timestamp = w.timestamped(entryDocument).Timestamp
	object := func(data string, at ...string) []string {
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Fatal(err)
		}
		for _, name := range at {
			v = v[name].(map[string]any)
		}
		return slices.Sorted(maps.Keys(v))
	}
	recovery, err := statement.Sign(w.agency, statement.Recovery{Log: w.id.Hash(), Reason: "r", Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	broken, err := statement.Sign(w.agency, statement.Break{Log: w.id.Hash(), Coin: calpe.Outpoint{Vout: 1}, Anchor: calpe.BlockHash{1}, Size: 1,
		Root: calpe.Hash{1}, Reason: "r", Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	identity := section(t, "## Log identity")
	identity = identity[:strings.Index(identity, "| network |")]
	parts := strings.Split(section(t, "## Receipt"), "\n`")
	receipt := unchecked(t, full)
	for name, tt := range map[string]struct{ code, page []string }{
		"identity":                    {object(string(w.id.Canonical())), members(identity)},
		"statement":                   {object(string(recovery.Bytes())), members(section(t, "## Statement"))},
		"agency":                      {object(receipt, "certification", "agency", "statement", "statement"), members(section(t, "### calpe/agency/v1"))},
		"certification":               {object(receipt, "certification", "statement", "statement"), members(section(t, "### calpe/certification/v1"))},
		"recovery":                    {object(string(recovery.Bytes()), "statement"), members(section(t, "### calpe/recovery/v1"))},
		"break":                       {object(string(broken.Bytes()), "statement"), members(section(t, "### calpe/break/v1"))},
		"receipt":                     {object(receipt), members(parts[0])},
		"in a receipt, certification": {object(receipt, "certification"), members(parts[1])},
		"in a receipt, anchor":        {object(receipt, "anchor"), members(parts[2])},
		"in a receipt, timestamp":     {object(receipt, "timestamp"), members(parts[3])},
	} {
		if d := cmp.Diff(tt.code, tt.page); d != "" {
			t.Errorf("members of %s (-code +page):\n%s", name, d)
		}
	}
}

// TestTypesOfThePage: every type that the code writes stands on the page.
func TestTypesOfThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{IdentityType, AcknowledgementType, ReceiptType, statement.TypeAgency, statement.TypeCertification,
		statement.TypeRecovery, statement.TypeBreak, "calpe/statement/v1"} {
		if !strings.Contains(string(page), typ) {
			t.Errorf("docs/formats.md doesn't name %s", typ)
		}
	}
}
