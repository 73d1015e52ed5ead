package ots

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

var update = flag.Bool("update", false, "write docs/vectors/ots anew")

// otsVectors are those of this package, beside the receipts that some are of.
const otsVectors = vectors + "/ots"

// otsVector is one of verifications.json.
type otsVector struct {
	Name    string `json:"name"`
	File    string `json:"file"`
	Digest  string `json:"digest"`  // of the document, by the file's hash
	Headers string `json:"headers"` // file of them without .bin; empty: none are given
	Depth   int    `json:"depth"`
	Existed string `json:"existed"`
	// Attestations are what each is worth, in the order of the file.
	Attestations []string `json:"attestations,omitempty"`
	Error        string   `json:"error,omitempty"` // why the file can't be read, in this reader's words

	data []byte
}

type upgradeVector struct {
	Calendar string `json:"calendar"`
	Message  string `json:"message"` // what the calendar is asked about
	Answer   string `json:"answer"`  // a timestamp without its message
	File     string `json:"file"`
	Upgraded string `json:"upgraded"`
}

type mergeVector struct {
	Files  [2]string `json:"files"`
	Merged string    `json:"merged"`
}

type treeVector struct {
	Leaves []string `json:"leaves"`
	Root   string   `json:"root"`
	Ways   [][]Op   `json:"ways"` // from each leaf to the root
}

const otherCalendar = "https://alice.btc.calendar.opentimestamps.org"

// foreign are files as other programs write them, each with a block of its own in
// ots/headers.bin.
func foreign(t *testing.T) (list []otsVector, raw []byte) {
	p, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Clone(p.Genesis[:])
	document := []byte("This is a foreign document.\n")
	for _, c := range []struct {
		name string
		hash Tag
		ops  []Op
	}{
		{"sha1", SHA1, []Op{{Append, "nonce"}, {Tag: SHA256}}},
		{"ripemd160", RIPEMD160, []Op{{Prepend, "nonce"}, {Tag: SHA256}}},
		{"keccak256", Keccak256, nil},
		{"hashes-as-operations", SHA256, []Op{{Tag: SHA1}, {Tag: RIPEMD160}, {Append, "salt"}, {Tag: Keccak256}}},
		{"reverse-and-hexlify", SHA256, []Op{{Tag: Reverse}, {Tag: Hexlify}, {Tag: SHA256}}},
		{"255-operations", SHA256, append(slices.Repeat([]Op{{Tag: Reverse}}, MaxDepth-1), Op{Tag: SHA256})},
		{"message-of-4096-bytes", SHA256, []Op{{Append, strings.Repeat("x", MaxMessage-calpe.HashSize)}, {Tag: SHA256}}},
	} {
		h := c.hash.NewHash()
		h.Write(document)
		digest := h.Sum(nil)
		root, err := applyAll(digest, c.ops)
		if err != nil {
			t.Fatal(err)
		}
		height := len(raw) / 80
		raw = append(raw, mineHeader(raw[len(raw)-80:], uint32(height), calpe.BlockHash(root))...)
		f, err := NewDetachedFile(c.hash, mustMake(t, string(digest), c.ops, BitcoinBlock(uint64(height))))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, otsVector{Name: "foreign-" + c.name, Digest: hex.EncodeToString(digest), Headers: "ots/headers", Depth: 6,
			Existed: "holds", Attestations: []string{"holds"}, data: mustSerialize(t, f)})
	}
	for height := len(raw) / 80; height < 14; height++ {
		raw = append(raw, mineHeader(raw[len(raw)-80:], uint32(height), calpe.BlockHash(some("root", height)))...)
	}
	return list, raw
}

// broken are files that no reader may take.
func broken() (list []otsVector) {
	add := func(name, data, why string) {
		list = append(list, otsVector{Name: "broken-" + name, Digest: strings.Repeat("00", 32), Depth: 6,
			Existed: "refuted malformed", Error: why, data: []byte(data)})
	}
	body := func(name, body, why string) { add(name, string(otsFile(body)), why) }
	add("empty", "", "not an OpenTimestamps file")
	add("magic-alone", magic, "end too early")
	add("other-magic", strings.Replace(string(otsFile(block(5))), "Proof", "Prove", 1), "not an OpenTimestamps file")
	add("version-2", magic+"\x02\x08"+zeroDigest+block(5), "version is 2")
	add("unknown-hash", magic+"\x01\x07"+zeroDigest+block(5), "0x07 is not a hash")
	add("operation-as-hash", magic+"\x01\xf0"+zeroDigest+block(5), "append is not a hash")
	add("half-a-digest", magic+"\x01\x08"+zeroDigest[:16], "end too early")
	body("no-timestamp", "", "end too early")
	body("no-attestation", "\x08", "end too early")
	body("fork-without-its-second", "\xff"+block(5), "end too early")
	body("trailing-byte", block(5)+"\x00", "1 bytes follow the end")
	body("unknown-operation", "\x77"+block(5), "unknown operation 0x77")
	body("append-nothing", "\xf0\x00"+block(5), "0 bytes, want 1 to 4096")
	body("append-4097-bytes", "\xf0\x81\x20"+strings.Repeat("x", 4097)+block(5), "4097 bytes, want 1 to 4096")
	body("message-of-4097-bytes", "\xf0\xe1\x1f"+strings.Repeat("x", 4065)+block(5), "4097 bytes, more than 4096")
	body("hexlify-4097-bytes", "\xf0\xe1\x0f"+strings.Repeat("x", 2017)+"\xf3"+block(5), "4098 bytes, more than 4096")
	body("256-operations", strings.Repeat("\xf2", 256)+block(5), "more than 255 operations")
	body("half-an-attestation", "\x00\x05\x88\x96\x0d", "end too early")
	body("height-and-more", attested(bitcoinNotary, "\x05\x05"), "1 bytes follow the end")
	body("height-of-11-bytes", attested(bitcoinNotary, strings.Repeat("\x80", 10)+"\x00"), "64 bits or 10 bytes")
	body("no-height", attested(bitcoinNotary, ""), "end too early")
	body("address-of-1001-characters", pendingAt(strings.Repeat("a", 1001)), "1001 bytes, want 0 to 1000")
	body("address-with-a-query", pendingAt("https://a.example?x"), "'?' as character 17")
	body("address-with-an-escape", pendingAt("https://a.example/\x1b[2J"), "as character 18")
	body("address-and-more", attested(pendingNotary, "\x01aa"), "1 bytes follow the end")
	body("payload-of-8193-bytes", attested("unknown!", strings.Repeat("x", 8193)), "8193 bytes, want 0 to 8192")
	return list
}

// ownVectors are about receipts of docs/vectors, in its chain.
func ownVectors(t *testing.T) []otsVector {
	anchored, received, timestamped := vector(t, "anchored"), vector(t, "received"), vector(t, "timestamped")
	complete := mustSerialize(t, mustFromReceipt(t, anchored))
	digest, other := anchored.Digest.String(), received.Digest.String()
	chain := chainOf(t, "headers", false)
	root := rootAt(t, chain, 5)
	about := func(body string) []byte { return []byte(magic + "\x01\x08" + root + body) }
	rootDigest := hex.EncodeToString([]byte(root))
	pending := mustSerialize(t, stampOf(t, anchored, calendar))
	list := []otsVector{
		{"complete", "", digest, "headers", 6, "holds", []string{"holds"}, "", complete},
		{"complete-just-deep", "", digest, "headers", 8, "holds", []string{"holds"}, "", complete},
		{"complete-not-deep", "", digest, "headers", 9, "not-yet not-deep", []string{"not-yet not-deep"}, "", complete},
		{"complete-headers-end", "", digest, "headers-end", 6, "not-yet headers-end", []string{"not-yet headers-end"}, "", complete},
		{"complete-by-a-calendar", "", timestamped.Digest.String(), "headers-calendar", 6, "holds", []string{"holds"}, "", mustSerialize(t, mustFromReceipt(t, timestamped))},
		{"complete-no-headers", "", digest, "", 6, "not-asked no-headers", []string{"not-asked no-headers"}, "", complete},
		{"complete-too-little-work", "", digest, "headers-mainnet", 6, "not-yet too-little-work", []string{"not-yet too-little-work"}, "", complete},
		{"complete-reorganised-away", "", digest, "headers-other", 6, "refuted not-in-chain", []string{"refuted not-in-chain"}, "", complete},
		{"complete-another-document", "", other, "headers", 6, "refuted other-document", nil, "", complete},
		{"pending", "", digest, "headers", 6, "not-yet pending", []string{"not-yet pending"}, "", pending},
		{"pending-at-another", "", digest, "headers", 6, "not-yet pending", []string{"not-yet pending"}, "", mustSerialize(t, stampOf(t, anchored, otherCalendar))},
		{"of-a-receipt-not-anchored", "", other, "headers", 6, "not-yet pending", []string{"not-yet pending"}, "", mustSerialize(t, mustFromReceipt(t, received))},
		{"wrong-height", "", rootDigest, "headers", 6, "refuted not-in-chain", []string{"refuted not-in-chain"}, "", about(block(4))},
		{"height-of-64-bits", "", rootDigest, "headers", 6, "not-yet headers-end", []string{"not-yet headers-end"}, "", about(attested(bitcoinNotary, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))},
		{"no-merkle-root", "", rootDigest, "headers", 6, "refuted not-in-chain", []string{"refuted not-in-chain"}, "", about("\xf0\x01x" + block(5))},
		{"one-holds-of-four", "", rootDigest, "headers", 6, "holds", []string{"refuted not-in-chain", "holds", "not-yet headers-end", "not-yet pending"}, "",
			about("\xff" + block(4) + "\xff" + block(5) + "\xff" + block(13) + pendingAt(calendar))},
		{"litecoin-alone", "", rootDigest, "headers", 6, "not-asked other-notary", []string{"not-asked other-notary"}, "", about(attested(litecoinNotary, "\x05"))},
		{"ethereum-and-pending", "", rootDigest, "headers", 6, "not-yet pending", []string{"not-asked other-notary", "not-yet pending"}, "", about("\xff" + attested(ethereumNotary, "\x05") + pendingAt(calendar))},
		{"unknown-notary-and-bitcoin", "", rootDigest, "headers", 6, "holds", []string{"not-asked other-notary", "holds"}, "", about("\xff" + attested("\x01\x02\x03\x04\x05\x06\x07\x08", "\x1b[2J") + block(5))},
		{"long-spelling-of-a-length", "", rootDigest, "headers", 6, "holds", []string{"holds"}, "", about("\x00" + bitcoinNotary + "\x82\x00\x85\x00")},
		{"the-same-operation-twice", "", rootDigest, "headers", 6, "holds", []string{"holds", "not-yet pending"}, "", about("\xff\xf2\xf2" + block(5) + "\xf2\xf2" + pendingAt(calendar))},
	}
	// A step that was changed leads elsewhere.
	changed := bytes.Replace(complete, anchored.Salt[:], bytes.Repeat([]byte{7}, len(anchored.Salt)), 1)
	return append(list, otsVector{"changed-salt", "", digest, "headers", 6, "refuted not-in-chain", []string{"refuted not-in-chain"}, "", changed})
}

// stampOf is what a client had of a receipt's document before the anchor.
func stampOf(t *testing.T, r receipt.Receipt, uri string) DetachedFile {
	stamp, err := Stamp(r.Digest[:], r.Salt, r.Index, uri)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewDetachedFile(SHA256, stamp)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// makeOTSVectors is docs/vectors/ots, by path.
func makeOTSVectors(t *testing.T) map[string][]byte {
	files := map[string][]byte{}
	addJSON := func(name string, v any) {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		files[name] = append(data, '\n')
	}
	list, raw := foreign(t)
	list = append(append(ownVectors(t), list...), broken()...)
	files["headers.bin"] = raw

	r := vector(t, "anchored")
	waiting, alsoAt := stampOf(t, r, calendar), stampOf(t, r, otherCalendar)
	answer := answerTo(t, r)
	upgraded, err := waiting.Upgrade(answer)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := upgraded.Merge(alsoAt)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]DetachedFile{"upgraded": upgraded, "merged": merged} {
		attestations := []string{"not-yet pending", "holds"}
		if name == "merged" {
			attestations = append([]string{"not-yet pending"}, attestations...)
		}
		list = append(list, otsVector{name, "", r.Digest.String(), "headers", 6, "holds", attestations, "", mustSerialize(t, f)})
	}
	files["answer.bin"] = mustWrite(t, answer)
	entry := calpe.Entry{Index: r.Index, Commitment: calpe.Commit(r.Digest, r.Salt)}.Bytes()
	addJSON("upgrades.json", []upgradeVector{{calendar, hex.EncodeToString(entry[:]), "ots/answer.bin", "ots/pending.ots", "ots/upgraded.ots"}})
	addJSON("merges.json", []mergeVector{{[2]string{"ots/upgraded.ots", "ots/pending-at-another.ots"}, "ots/merged.ots"}})
	addJSON("trees.json", treeVectors(t))
	slices.SortFunc(list, func(a, b otsVector) int { return strings.Compare(a.Name, b.Name) })
	for i := range list {
		v := &list[i]
		v.File = "ots/" + v.Name + ".ots"
		files[v.Name+".ots"] = v.data
	}
	addJSON("verifications.json", list)
	return files
}

// answerTo is what the calendar says once the receipt's entry is anchored.
func answerTo(t *testing.T, r receipt.Receipt) Timestamp {
	a, err := anchorOf(r)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := Complete(calpe.Entry{Index: r.Index, Commitment: calpe.Commit(r.Digest, r.Salt)}, r.Path, a)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func treeVectors(t *testing.T) (list []treeVector) {
	for n := 1; n <= 7; n++ {
		v := treeVector{}
		leaves := make([][]byte, n)
		for i := range leaves {
			leaves[i] = bytes.Repeat([]byte{byte(i)}, calpe.HashSize)
			v.Leaves = append(v.Leaves, hex.EncodeToString(leaves[i]))
		}
		root, ways, err := MerkleTree(leaves)
		if err != nil {
			t.Fatal(err)
		}
		v.Root, v.Ways = hex.EncodeToString(root), ways
		list = append(list, v)
	}
	return list
}

// TestVectors holds docs/vectors/ots to the code: making them again gives the
// same bytes, and nothing else is there.
func TestVectors(t *testing.T) {
	want := makeOTSVectors(t)
	if *update {
		if err := os.RemoveAll(otsVectors); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(otsVectors, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range want {
			if err := os.WriteFile(filepath.Join(otsVectors, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, err := fs.ReadDir(os.DirFS(otsVectors), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range there {
		if _, ok := want[entry.Name()]; !ok {
			t.Errorf("docs/vectors/ots/%s is not made by the code", entry.Name())
		}
	}
	for name, data := range want {
		if got, err := os.ReadFile(filepath.Join(otsVectors, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("docs/vectors/ots/%s is not what the code makes; if it may change, see docs/vectors/README.md: %v", name, err)
		}
	}
}

// TestVectorsAreRight verifies the files as they lie there: the verdicts are those
// that the tables above say, not what the code makes of them.
func TestVectorsAreRight(t *testing.T) {
	var list []otsVector
	if err := json.Unmarshal(readFile(t, otsVectors, "verifications.json"), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) < 50 {
		t.Errorf("only %d vectors", len(list))
	}
	for _, v := range list {
		f, err := Parse(readFile(t, vectors, v.File))
		if v.Error != "" {
			wantError(t, err, v.Error)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		r := Verify(Input{File: f, Digest: mustHex(t, v.Digest), Headers: chainOf(t, v.Headers, true), Depth: v.Depth})
		var each []string
		for _, result := range r.Results {
			each = append(each, words(result.Verdict))
		}
		if got := words(r.Existed); got != v.Existed || !slices.Equal(each, v.Attestations) {
			t.Errorf("%s: %s %q, want %s %q", v.Name, got, each, v.Existed, v.Attestations)
		}
	}
}

func words(v receipt.Verdict) string {
	return strings.TrimSpace(string(v.Status) + " " + string(v.Reason))
}

// TestUpgradeVectors and merges give the files that lie there.
func TestUpgradeVectors(t *testing.T) {
	var upgrades []upgradeVector
	var merges []mergeVector
	for name, list := range map[string]any{"upgrades.json": &upgrades, "merges.json": &merges} {
		if err := json.Unmarshal(readFile(t, otsVectors, name), list); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range upgrades {
		answer, err := ParseTimestamp(mustHex(t, v.Message), readFile(t, vectors, v.Answer))
		if err != nil {
			t.Fatal(err)
		}
		got, err := mustParse(t, readFile(t, vectors, v.File)).Upgrade(answer)
		if err != nil || !bytes.Equal(mustSerialize(t, got), readFile(t, vectors, v.Upgraded)) {
			t.Errorf("%s with %s is another file: %v", v.File, v.Answer, err)
		}
	}
	for _, v := range merges {
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			got, err := mustParse(t, readFile(t, vectors, v.Files[order[0]])).Merge(mustParse(t, readFile(t, vectors, v.Files[order[1]])))
			if err != nil || !bytes.Equal(mustSerialize(t, got), readFile(t, vectors, v.Merged)) {
				t.Errorf("%s and %s make another file: %v", v.Files[0], v.Files[1], err)
			}
		}
	}
	if len(upgrades) == 0 || len(merges) == 0 {
		t.Error("there are none")
	}
}
