package receipt

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
)

var update = flag.Bool("update", false, "write docs/vectors anew")

const vectorsDir = "../docs/vectors"

// maxVectorFile leaves out receipts that are wrong only in being too large.
const maxVectorFile = 40_000

type entryVector struct {
	Document   Hex              `json:"document"`
	Digest     calpe.Digest     `json:"digest"`
	Salt       calpe.Salt       `json:"salt"`
	Index      uint64           `json:"index"`
	Commitment calpe.Commitment `json:"commitment"`
	Entry      Hex              `json:"entry"`
	Leaf       calpe.Hash       `json:"leaf"`
}

type treeVector struct {
	Size   uint64     `json:"size"`
	Root   calpe.Hash `json:"root"`
	Paths  []Path     `json:"paths"` // of each index
	Script Hex        `json:"script"`
}

type hashesVector struct {
	Entries []entryVector `json:"entries"`
	Trees   []treeVector  `json:"trees"` // of the first entries
}

type noteVector struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"` // checkpoint or acknowledgement
	Identity string `json:"identity"`
	Note     string `json:"note"`
	Valid    bool   `json:"valid"`
}

type statementVector struct {
	Name      string       `json:"name"`
	Statement string       `json:"statement"` // the text of the signed statement
	Key       string       `json:"key"`       // vkey
	Readable  bool         `json:"readable"`  // it is as the format demands
	Verifies  bool         `json:"verifies"`  // with that key
	Digest    calpe.Digest `json:"digest,omitzero"`
}

type verificationVector struct {
	Name      string       `json:"name"`
	Digest    calpe.Digest `json:"digest"`
	Receipt   string       `json:"receipt"`
	Headers   string       `json:"headers"`
	Identity  string       `json:"identity"`
	Depth     int          `json:"depth"`
	Existed   string       `json:"existed"`
	InLog     string       `json:"in_log"`
	Certified string       `json:"certified"`
}

// files are docs/vectors, by path.
type files map[string][]byte

func (f files) addJSON(tb testing.TB, path string, v any) {
	tb.Helper()
	data, err := json.Marshal(v, jsontext.WithIndent("  "))
	if err != nil {
		tb.Fatal(err)
	}
	f[path] = append(data, '\n')
}

func makeVectors(tb testing.TB) files {
	tb.Helper()
	w := newWorld(tb, testOrigin)
	f := files{"document.txt": document(entryDocument)}
	for name, id := range w.identities() {
		data, err := json.Marshal(jsontext.Value(id.Canonical()), jsontext.WithIndent("  "))
		if err != nil {
			tb.Fatal(err)
		}
		f[name+".json"] = append(data, '\n')
	}
	for name, raw := range w.headerFiles() {
		f[name+".bin"] = raw
	}
	f.addJSON(tb, "headers.json", w.headerVectors(f))
	f.addJSON(tb, "hashes.json", w.hashVectors())
	f.addJSON(tb, "notes.json", w.noteVectors())
	f.addJSON(tb, "statements.json", w.statementVectors())
	var list []verificationVector
	for _, v := range w.verifications() {
		if len(v.Receipt) > maxVectorFile {
			continue
		}
		path := "receipts/" + strings.ReplaceAll(v.Name, "'", "") + ".json"
		f[path] = []byte(v.Receipt)
		list = append(list, verificationVector{v.Name, v.Digest, path, v.Headers, v.Identity, v.Depth,
			v.Want.Existed, v.Want.InLog, v.Want.Certified})
	}
	f.addJSON(tb, "verifications.json", list)
	return f
}

func (w *world) hashVectors() hashesVector {
	var v hashesVector
	for i, leaf := range w.leaves {
		if i == entryIdentity {
			continue
		}
		doc := document(i)
		if s, ok := w.signed[i]; ok {
			doc = s.Bytes()
		}
		c := calpe.Commit(w.digests[i], w.salts[i])
		b := calpe.Entry{Index: uint64(i), Commitment: c}.Bytes()
		v.Entries = append(v.Entries, entryVector{doc, w.digests[i], w.salts[i], uint64(i), c, b[:], leaf})
	}
	for size := range w.leaves {
		tree := treeVector{Size: uint64(size) + 1, Root: merkle.Root(w.leaves[:size+1])}
		tree.Script = calpe.Payload{Size: tree.Size, Root: tree.Root}.Script()
		for i := range size + 1 {
			tree.Paths = append(tree.Paths, w.path(w.leaves[:size+1], i))
		}
		v.Trees = append(v.Trees, tree)
	}
	return v
}

func (w *world) noteVectors() []noteVector {
	list := []noteVector{
		{"checkpoint", "checkpoint", "identity", string(w.checkpointNote(anchoredSize)), true},
		{"checkpoint-of-another-log", "checkpoint", "identity-other", string(w.checkpointNote(anchoredSize)), false},
		{"acknowledgement", "acknowledgement", "identity", string(w.acknowledgementNote()), true},
		{"acknowledgement-by-checkpoint-key", "checkpoint", "identity", string(w.acknowledgementNote()), false},
	}
	for _, e := range noteEdits() {
		list = append(list, noteVector{e.name, e.kind, "identity", w.edited(e), false})
	}
	return list
}

func (w *world) statementVectors() []statementVector {
	operator := testKey(w.tb, StatementKeyName(w.id.Origin), "")
	recovery, err := statement.Sign(operator, statement.Recovery{Log: w.id.Hash(), RolledFrom: 7, RolledTo: 9, VoidFrom: 9, VoidTo: 265,
		Reason: "Restored from the copy of 2026-11-21, \u20ac \"quoted\" \U0001f58b.", Time: testTime})
	if err != nil {
		w.tb.Fatal(err)
	}
	broken, err := statement.Sign(operator, statement.Break{Log: w.id.Hash(), Coin: calpe.Outpoint{TxID: calpe.BlockHash{21}, Vout: 1},
		SpentBy: calpe.BlockHash{22}, Block: calpe.BlockHash{23}, Height: 910_000, Anchor: calpe.BlockHash{21}, Size: 265, Root: calpe.Hash{24},
		First: calpe.Outpoint{TxID: calpe.BlockHash{25}, Vout: 7}, Reason: "The anchor key was stolen; it was replaced.", Time: testTime})
	if err != nil {
		w.tb.Fatal(err)
	}
	var list []statementVector
	for _, s := range []struct {
		name   string
		signed statement.Signed
		key    string
	}{
		{"agency", w.signed[entryAgency], operator.Verifier()},
		{"certification", w.signed[entryCertification], w.agency.Verifier()},
		{"recovery", recovery, operator.Verifier()},
		{"break", broken, operator.Verifier()},
	} {
		text := string(s.signed.Bytes())
		other := testKey(w.tb, operator.Name(), "forged").Verifier()
		list = append(list,
			statementVector{s.name, text, s.key, true, true, s.signed.Digest()},
			statementVector{s.name + "-by-another-key", text, other, true, false, s.signed.Digest()},
			statementVector{s.name + "-no-type", strings.Replace(text, `"type"`, `"kind"`, 1), s.key, false, false, calpe.Digest{}},
			statementVector{s.name + "-fraction", strings.Replace(text, `{"`, `{"n":1.5,"`, 1), s.key, false, false, calpe.Digest{}},
			statementVector{s.name + "-signature-short", strings.Replace(text, `=="`, `="`, 1), s.key, false, false, calpe.Digest{}},
		)
	}
	return list
}

// TestVectors holds docs/vectors to the code: making them again gives the same
// bytes, and nothing else is there.
func TestVectors(t *testing.T) {
	want := makeVectors(t)
	if *update {
		writeVectors(t, want)
	}
	got := files{}
	err := filepath.WalkDir(vectorsDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "ots" {
			return fs.SkipDir // receipt/ots makes it
		}
		if err != nil || d.IsDir() || slices.Contains([]string{".py", ".md", ".gitattributes"}, filepath.Ext(path)) {
			return err
		}
		rel, err := filepath.Rel(vectorsDir, path)
		if err != nil {
			return err
		}
		got[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range want {
		if !bytes.Equal(got[path], data) {
			t.Errorf("docs/vectors/%s is not what the code makes; if the format may change, run: go test ./receipt -run TestVectors -update", path)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("docs/vectors/%s is not made by the code", path)
		}
	}
}

func writeVectors(t *testing.T, f files) {
	for _, dir := range []string{"receipts", "headers"} {
		if err := os.RemoveAll(filepath.Join(vectorsDir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	for path, data := range f {
		path = filepath.Join(vectorsDir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestVectorsAreRight holds the statements and notes to what they claim; the
// verifications are rows of TestVerify.
func TestVectorsAreRight(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, v := range w.statementVectors() {
		s, err := statement.Parse([]byte(v.Statement))
		if (err == nil) != v.Readable {
			t.Errorf("%s: %v", v.Name, err)
		}
		if err == nil && ((s.Verify(v.Key) == nil) != v.Verifies || s.Digest() != v.Digest) {
			t.Errorf("%s: digest %s, %v", v.Name, s.Digest(), s.Verify(v.Key))
		}
	}
	identities := w.identities()
	for _, v := range w.noteVectors() {
		saved := w.id
		w.id = *identities[v.Identity]
		if err := w.open(v.Kind, v.Note); (err == nil) != v.Valid {
			t.Errorf("%s: %v", v.Name, err)
		}
		w.id = saved
	}
}

// TestVectorsInPython runs the verifier that was written from formats.md alone
// over the vectors. A machine without Python runs all the rest.
func TestVectorsInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Logf("python3 is not here, so docs/vectors/run.py is not run: %v", err)
		return
	}
	out, err := exec.CommandContext(t.Context(), python, filepath.Join(vectorsDir, "run.py")).CombinedOutput()
	if err != nil {
		t.Errorf("docs/vectors/run.py: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
