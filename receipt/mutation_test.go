package receipt

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/heaptest"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// claims are what a report tells the world: each for itself, with the document,
// the block, the log or the signer that it is about.
func claims(r Report) map[string]bool {
	all := map[string]bool{}
	add := func(format string, args ...any) { all[fmt.Sprintf(format, args...)] = true }
	if r.Existed.Status == Holds {
		add("%s existed", r.Digest)
	}
	if b := r.Block; b != nil {
		add("%s is in block %d of %s, %s, by transaction %s of %s", r.Digest, b.Height, b.Network, b.Hash, b.TxID, b.Time)
	}
	if r.InLog.Status == Holds {
		add("%s is entry %d of %s %s", r.Digest, r.Index, r.Origin, r.Log)
	}
	if r.Certified.Status == Holds {
		add("%s is certified in %s: %+v", r.Digest, r.Log, *r.Certification)
	}
	if p := r.Promise; p != nil {
		add("%s was promised as entry %d of %s: %+v", r.Digest, r.Index, r.Log, *p)
	}
	return all
}

// trial is something true, and how often it was changed.
type trial struct {
	in    Input
	truth map[string]bool
	heap  *heaptest.Meter

	mutations, read, claiming int
}

func newTrial(t *testing.T, in Input) *trial {
	t.Helper()
	m := &trial{in: in, truth: claims(Verify(in)), heap: heaptest.New()}
	if len(m.truth) == 0 {
		t.Fatal("the true receipt claims nothing")
	}
	return m
}

// receipt verifies a text as the receipt of the true document and, if it names
// another one, of that: whatever is claimed is claimed by the true one.
func (m *trial) receipt(t *testing.T, text []byte) {
	m.mutations++
	m.heap.Watch(func() {
		r, err := Decode(text)
		if err != nil {
			return
		}
		m.read++
		in := m.in
		in.Receipt = r
		report := Verify(in)
		m.check(t, report, text)
		m.checkEvidence(t, report, r)
		if in.Digest != r.Digest {
			in.Digest = r.Digest
			m.check(t, Verify(in), text)
		}
	})
}

func (m *trial) check(t *testing.T, r Report, what []byte) {
	if got := claims(r); len(got) > 0 {
		m.claiming++
		for claim := range got {
			if !m.truth[claim] {
				t.Fatalf("changed, it claims: %s\n%q", claim, what)
			}
		}
	}
}

// checkEvidence: what a verdict that holds is made from is there as it was, down
// to the signature; a claim that is true must not stand on anything else.
func (m *trial) checkEvidence(t *testing.T, r Report, changed Receipt) {
	was := m.in.Receipt
	place := func(r Receipt) []any { return []any{r.Digest, r.Salt, r.Index, r.Path} }
	same := func(what string, holds bool, a, b any) {
		if !holds {
			return
		}
		before, err := stdjson.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		after, err := stdjson.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before, after) {
			t.Fatalf("it holds with another %s:\n%s\nnot\n%s", what, after, before)
		}
	}
	same("place", r.Existed.Status == Holds || r.InLog.Status == Holds || r.Certified.Status == Holds, place(was), place(changed))
	same("anchor", r.Existed.Status == Holds || r.Block != nil, was.Anchor, changed.Anchor)
	same("timestamp", r.Existed.Status == Holds || r.Block != nil, was.Timestamp, changed.Timestamp)
	same("log", r.InLog.Status == Holds, was.Log, changed.Log)
	same("certification", r.Certified.Status == Holds, was.Certification, changed.Certification)
	if r.InLog.Status == Holds && !signedAs(was.Checkpoint, changed.Checkpoint) {
		t.Fatalf("the key never signed\n%q", changed.Checkpoint)
	}
	if r.Promise != nil {
		same("path in the group", true, was.Acknowledgement.Path, changed.Acknowledgement.Path)
		if !signedAs(was.Acknowledgement.Note, changed.Acknowledgement.Note) {
			t.Fatalf("the key never signed\n%q", changed.Acknowledgement.Note)
		}
	}
}

// signedAs: both notes say the same, and have the signature of the first one;
// there may be others.
func signedAs(was, changed string) bool {
	body, signature, _ := strings.Cut(was, "\n\n")
	return strings.HasPrefix(changed, body+"\n\n") && strings.Contains(changed, signature)
}

// done demands that the trial was one: some changes can be read, and few of
// those that claim something still do; and that no input took much memory.
func (m *trial) done(t *testing.T, want int) {
	t.Helper()
	t.Logf("%d mutations, %d read, %d claim something of what is true; one took %d KiB at most, the heap of all was %d KiB",
		m.mutations, m.read, m.claiming, m.heap.Single>>10, m.heap.Peak>>10)
	if m.mutations != want || m.read < want/100 || m.claiming > want*2/3 {
		t.Errorf("%d mutations, %d read, %d claim something: the test shows nothing", m.mutations, m.read, m.claiming)
	}
	if m.heap.Single > heaptest.Limit || m.heap.Peak > heaptest.Limit {
		t.Errorf("one input took %d bytes, and the heap of all was %d, want %d at most", m.heap.Single, m.heap.Peak, heaptest.Limit)
	}
}

// TestMutations changes what holds in tens of thousands of ways: none holds of
// another document, time, block, log or signer, none makes the verifier panic,
// and none takes much memory. With the same test of package ots there are more
// than 100,000.
func TestMutations(t *testing.T) {
	issued := func(w *world, entry int) Input { return w.input(w.issue(entry)) }
	for name, c := range map[string]struct {
		entry, mutations int
		input            func(w *world, entry int) Input
	}{
		"certified":    {entryDocument, 10_000, issued},
		"anchored":     {entryPlain, 9_000, issued},
		"timestamped":  {entryPlain, 9_000, (*world).timestampedInput},
		"checkpointed": {entryLate, 5_000, issued},
		"received":     {entryReceived, 5_000, issued},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testOrigin)
			m := newTrial(t, c.input(w, c.entry))
			text := []byte(unchecked(t, m.in.Receipt))
			rng := rand.New(rand.NewPCG(3, uint64(c.entry)))
			for range c.mutations {
				m.receipt(t, mutate(rng, text))
			}
			m.done(t, c.mutations)
		})
		t.Run(name+", by members", func(t *testing.T) {
			w := newWorld(t, testOrigin)
			m := newTrial(t, c.input(w, c.entry))
			text := []byte(unchecked(t, m.in.Receipt))
			donors := w.donors(t, c.entry)
			rng := rand.New(rand.NewPCG(4, uint64(c.entry)))
			for range c.mutations / 4 {
				m.receipt(t, mutateMembers(t, rng, text, donors))
			}
			m.done(t, c.mutations/4)
		})
	}
}

// TestMutatedHeaders changes the chain of headers: the receipt holds in its own
// block or not at all.
func TestMutatedHeaders(t *testing.T) {
	const mutations = 10_000
	w := newWorld(t, testOrigin)
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	m := newTrial(t, w.input(w.issue(entryDocument)))
	rng := rand.New(rand.NewPCG(5, 0))
	for range mutations {
		raw := mutateHeaders(rng, w.raw)
		m.mutations++
		m.heap.Watch(func() {
			chain, err := headers.Read(bytes.NewReader(raw), params)
			if err != nil {
				return
			}
			m.read++
			in := m.in
			in.Headers = chain
			r := Verify(in)
			m.check(t, r, raw)
			if tip, _ := chain.Tip(); r.Block != nil && (r.Block.Tip != tip || r.Block.Depth != tip-anchorHeight+1) {
				t.Errorf("a chain up to %d, and %+v", tip, r.Block)
			}
		})
	}
	m.done(t, mutations)
}

// mutateHeaders makes a change of bytes, or of whole headers.
func mutateHeaders(rng *rand.Rand, raw []byte) []byte {
	raw = bytes.Clone(raw)
	n := len(raw) / headers.HeaderSize
	at := func(height int) []byte { return raw[height*headers.HeaderSize:][:headers.HeaderSize] }
	i, j := rng.IntN(n), rng.IntN(n)
	switch rng.IntN(6) {
	case 0: // headers change places
		h := bytes.Clone(at(i))
		copy(at(i), at(j))
		copy(at(j), h)
	case 1: // headers go, or the end does
		return slices.Delete(raw, i*headers.HeaderSize, max(i, j+rng.IntN(n-j+1))*headers.HeaderSize)
	case 2: // one comes twice
		return slices.Insert(raw, j*headers.HeaderSize, bytes.Clone(at(i))...)
	case 3: // another of the last block: half of all hashes are good enough on regtest
		raw[len(raw)-1-rng.IntN(44)] ^= 1 << rng.IntN(8)
	case 4: // a new end
		raw = raw[:(i+1)*headers.HeaderSize]
		for height := i + 1; height <= i+rng.IntN(10); height++ {
			raw = append(raw, mineHeader(raw, height, doubleHash([]byte{byte(i), byte(j)}))...)
		}
	case 5:
		return mutate(rng, raw)
	}
	return raw
}

// TestMutatedStatements changes what an operator or an agency has signed: it is
// the same statement, or the key didn't sign it.
func TestMutatedStatements(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, v := range w.statementVectors() {
		if !v.Verifies {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			const mutations = 5_000
			m := trial{heap: heaptest.New()}
			rng := rand.New(rand.NewPCG(6, 0))
			for range mutations {
				text := mutate(rng, []byte(v.Statement))
				m.mutations++
				m.heap.Watch(func() {
					s, err := statement.Parse(text)
					if err != nil {
						return
					}
					m.read++
					if s.Verify(v.Key) != nil {
						return
					}
					m.claiming++
					if s.Digest() != v.Digest {
						t.Errorf("the key never signed this:\n%s", text)
					}
				})
			}
			m.done(t, mutations)
		})
	}
}

// TestMutatedIdentity changes the pinned identity: the log is another one, or
// the file is only written in another way.
func TestMutatedIdentity(t *testing.T) {
	const mutations = 4_000
	w := newWorld(t, testOrigin)
	m := newTrial(t, w.input(w.issue(entryDocument)))
	rng := rand.New(rand.NewPCG(7, 0))
	for range mutations {
		text := mutate(rng, w.id.Canonical())
		m.mutations++
		m.heap.Watch(func() {
			id, err := ParseIdentity(text)
			if err != nil {
				return
			}
			m.read++
			in := m.in
			in.Identity = &id
			r := Verify(in)
			if id.Hash() != w.id.Hash() && r.InLog.Reason != ReasonOtherLog {
				t.Errorf("another identity, and %+v:\n%s", r.InLog, text)
			}
			m.check(t, r, text)
		})
	}
	// Whose log it was is all that an identity says: existence holds without.
	m.claiming = 0
	m.done(t, mutations)
}

// donors are receipts of other entries, and of another deployment with the same
// documents.
func (w *world) donors(t *testing.T, entry int) (donors [][]member) {
	other := newWorld(t, "log.altea.example")
	for _, index := range []int{entryPlain, entryOther, entryDocument, entryLate, entryReceived} {
		if index != entry {
			donors = append(donors, readMembers(t, []byte(unchecked(t, w.issue(index)))))
		}
		donors = append(donors, readMembers(t, []byte(unchecked(t, other.issue(index)))))
	}
	donors = append(donors, readMembers(t, []byte(unchecked(t, other.timestamped(entryPlain)))))
	return donors
}

// member is one in an object.
type member struct {
	object map[string]any
	name   string
	path   string
}

func membersOf(value any, path string) (all []member) {
	object, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		m := member{object, name, path + "/" + name}
		all = append(append(all, m), membersOf(object[name], m.path)...)
	}
	return all
}

// copied is the member's value, with nothing in common with it: nothing may get
// into itself.
func (m member) copied(t *testing.T) (value any) {
	t.Helper()
	text, err := stdjson.Marshal(m.object[m.name])
	if err != nil {
		t.Fatal(err)
	}
	dec := stdjson.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func readMembers(t *testing.T, text []byte) []member {
	t.Helper()
	var root map[string]any
	dec := stdjson.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&root); err != nil {
		t.Fatal(err)
	}
	return membersOf(root, "")
}

// mutateMembers makes one to three changes of members, and writes the receipt in
// another way: with other spaces and the members in another order.
func mutateMembers(t *testing.T, rng *rand.Rand, text []byte, donors [][]member) []byte {
	t.Helper()
	all := readMembers(t, text)
	root := all[0].object
	for range 1 + rng.IntN(3) {
		m, other := all[rng.IntN(len(all))], all[rng.IntN(len(all))]
		switch rng.IntN(8) {
		case 0: // a member goes
			delete(m.object, m.name)
		case 1, 2: // that of another receipt comes in its place
			from := donors[rng.IntN(len(donors))]
			if i := slices.IndexFunc(from, func(x member) bool { return x.path == m.path }); i >= 0 {
				m.object[m.name] = from[i].copied(t)
			}
		case 3: // two members of the receipt change places
			if m.name == other.name { // so that they could be meant
				m.object[m.name], other.object[other.name] = other.copied(t), m.copied(t)
			}
		case 4: // one is copied
			other.object[m.name] = m.copied(t)
		case 5: // a text or a number is another
			switch v := m.object[m.name].(type) {
			case string:
				if v != "" {
					m.object[m.name] = string(mutate(rng, []byte(v)))
				}
			case stdjson.Number:
				m.object[m.name] = stdjson.Number(strconv.Itoa(rng.IntN(20)))
			}
		case 6: // of another type
			m.object[m.name] = []any{nil, true, 1.5, "", []any{}, map[string]any{}, 0, -1, "0"}[rng.IntN(9)]
		case 7: // nothing but another way to write it
		}
	}
	indent := strings.Repeat(" ", rng.IntN(4))
	out, err := stdjson.MarshalIndent(root, "", indent)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSameMeaning: white space and the order of members are free, and then all
// that is claimed is the same.
func TestSameMeaning(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, entry := range []int{entryDocument, entryPlain, entryLate, entryReceived} {
		m := newTrial(t, w.input(w.issue(entry)))
		text := []byte(unchecked(t, m.in.Receipt))
		root := readMembers(t, text)[0].object
		for _, indent := range []string{"", " ", "\t\t", "\r\n"} {
			sorted, err := stdjson.MarshalIndent(root, "", indent)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Decode(sorted)
			if err != nil {
				t.Fatal(err)
			}
			in := m.in
			in.Receipt = r
			if diff := cmp.Diff(m.truth, claims(Verify(in))); diff != "" {
				t.Error(diff)
			}
			if again := unchecked(t, r); again != string(text) {
				t.Errorf("it is another receipt:\n%s", again)
			}
		}
	}
}

// mutate makes one to three small changes.
func mutate(rng *rand.Rand, text []byte) []byte {
	text = slices.Clone(text)
	for range 1 + rng.IntN(3) {
		i, j := rng.IntN(len(text)), rng.IntN(len(text))
		switch rng.IntN(6) {
		case 0: // a bit
			text[i] ^= 1 << rng.IntN(7)
		case 1: // a character for one like it, so that it stays readable
			const alike = "0123456789abcdef"
			text[i] = alike[rng.IntN(len(alike))]
		case 2: // two bytes change places
			text[i], text[j] = text[j], text[i]
		case 3: // a piece goes
			text = slices.Delete(text, i, min(len(text), i+1+rng.IntN(70)))
		case 4: // a piece comes twice
			text = slices.Insert(text, j, text[i:min(len(text), i+1+rng.IntN(70))]...)
		case 5: // a piece comes elsewhere
			n := min(1+rng.IntN(64), len(text)-max(i, j))
			copy(text[j:], slices.Clone(text[i:i+n]))
		}
		if len(text) == 0 {
			return text
		}
	}
	return text
}

// TestEveryHexDigit changes each hexadecimal digit and each base64 character of
// the receipt by itself: nearly all of them are evidence.
func TestEveryHexDigit(t *testing.T) {
	w := newWorld(t, testOrigin)
	in := w.input(w.issue(entryDocument))
	truth := answersOf(Verify(in))
	text := []byte(unchecked(t, in.Receipt))
	for i, c := range text {
		if c < '0' || c > 'f' || c > '9' && c < 'a' {
			continue
		}
		changed := slices.Clone(text)
		changed[i] = map[bool]byte{true: '1', false: '0'}[c == '0']
		r, err := Decode(changed)
		if err != nil {
			continue
		}
		in.Receipt = r
		if report := Verify(in); answersOf(report) == truth {
			t.Errorf("nobody notices the change at byte %d: %s", i, changed[max(0, i-40):min(len(changed), i+40)])
		}
	}
}

// TestCutAnywhere: no beginning of a receipt is a receipt.
func TestCutAnywhere(t *testing.T) {
	w := newWorld(t, testOrigin)
	for _, index := range []int{entryDocument, entryPlain, entryLate, entryReceived} {
		text := unchecked(t, w.issue(index))
		for n := range len(text) - 1 { // the last byte is a newline
			if _, err := Decode([]byte(text[:n])); err == nil {
				t.Errorf("entry %d: cut to %d of %d bytes it is a receipt", index, n, len(text))
			}
		}
	}
}

// TestForeignParts puts each part of one receipt into another: of another entry,
// another deployment with the same documents, or another state.
func TestForeignParts(t *testing.T) {
	w, other := newWorld(t, testOrigin), newWorld(t, "log.altea.example")
	in := w.input(w.issue(entryDocument))
	donors := []Receipt{w.issue(entryPlain), w.issue(entryOther), w.issue(entryLate), other.issue(entryDocument), other.issue(entryPlain)}
	parts := map[string]func(r *Receipt, from Receipt){
		"log":        func(r *Receipt, from Receipt) { r.Log = from.Log },
		"salt":       func(r *Receipt, from Receipt) { r.Salt = from.Salt },
		"index":      func(r *Receipt, from Receipt) { r.Index = from.Index },
		"path":       func(r *Receipt, from Receipt) { r.Path = from.Path },
		"checkpoint": func(r *Receipt, from Receipt) { r.Checkpoint = from.Checkpoint },
		"anchor":     func(r *Receipt, from Receipt) { r.Anchor = from.Anchor },
		"digest":     func(r *Receipt, from Receipt) { r.Digest = from.Digest },
	}
	for name, put := range parts {
		for i, donor := range donors {
			r := w.issue(entryDocument)
			before := unchecked(t, r)
			put(&r, donor)
			if unchecked(t, r) == before {
				continue // both have the same
			}
			in.Receipt = r
			if report := Verify(in); answersOf(report) == all(string(Holds)) {
				t.Errorf("nobody notices the %s of donor %d", name, i)
			}
		}
	}
}

// TestVerifyIsTotal gives Verify receipts that Decode never gives.
func TestVerifyIsTotal(t *testing.T) {
	w := newWorld(t, testOrigin)
	good := w.issue(entryDocument)
	for name, edit := range map[string]func(in *Input){
		"zero":           func(in *Input) { *in = Input{} },
		"zero receipt":   func(in *Input) { in.Receipt = Receipt{} },
		"zero parts":     func(in *Input) { in.Receipt.Certification, in.Receipt.Anchor = &Certification{}, &Anchor{} },
		"zero agency":    func(in *Input) { c := *good.Certification; c.Agency = Registration{}; in.Receipt.Certification = &c },
		"zero promise":   func(in *Input) { in.Receipt = Receipt{Type: ReceiptType, Acknowledgement: &Promise{}} },
		"endless path":   func(in *Input) { in.Receipt.Path = make(Path, 1<<16) },
		"endless branch": func(in *Input) { a := *good.Anchor; a.Branch = make(Branch, 1<<16); in.Receipt.Anchor = &a },
	} {
		in := w.input(good)
		edit(&in)
		if report := Verify(in); answersOf(report) != all("refuted malformed") {
			t.Errorf("%s: %+v", name, answersOf(report))
		}
	}
	in := w.input(good)
	in.Identity = &Identity{}
	if got := answersOf(Verify(in)); got != (answers{"holds", "refuted other-log", "refuted other-log"}) {
		t.Errorf("an empty identity: %+v", got)
	}
	in = w.input(good)
	in.Depth = -1
	if got := Verify(in); got.Existed.Status != Holds || got.Block.Asked != DefaultDepth {
		t.Errorf("a negative depth: %+v", got)
	}
}
