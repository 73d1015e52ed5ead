package receipt

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// claim is what a verifier tells the world. No change of a receipt may lead to
// another claim, only to none.
type claim struct {
	Digest, Log, Origin string
	Index               uint64
	Block               Block
	Certified           Certified
	Answers             answers
}

// claimOf is what is said of a receipt, and whether anything was.
func claimOf(r Report) (claim, bool) {
	c := claim{Digest: r.Digest.String(), Index: r.Index, Answers: answersOf(r)}
	if r.InLog.Status == Holds {
		c.Log, c.Origin = r.Log.String(), r.Origin
	}
	if r.Existed.Status == Holds {
		c.Block = *r.Block
	}
	if r.Certified.Status == Holds {
		c.Certified = *r.Certification
	}
	return c, r.Existed.Status == Holds || r.InLog.Status == Holds || r.Certified.Status == Holds
}

// checkClaim verifies the text as a receipt: what holds is what holds of the
// true one.
func checkClaim(t *testing.T, in Input, text []byte, truth claim) (held bool) {
	t.Helper()
	r, err := Decode(text)
	if err != nil {
		return false
	}
	in.Receipt = r
	report := Verify(in)
	got, ok := claimOf(report)
	if !ok {
		return false
	}
	if report.Existed.Status != Holds {
		got.Block = truth.Block
	}
	if report.InLog.Status != Holds {
		got.Log, got.Origin = truth.Log, truth.Origin
	}
	if report.Certified.Status != Holds {
		got.Certified = truth.Certified
	}
	if r.Certification == nil && truth.Answers.Certified == string(Holds) {
		t.Errorf("the certification got lost:\n%s", text)
	}
	got.Answers = truth.Answers
	if d := cmp.Diff(truth, got); d != "" {
		t.Errorf("a changed receipt leads to another claim (-true +got):\n%s\n%s", d, text)
	}
	return true
}

// TestMutations changes a receipt that holds in thousands of ways.
func TestMutations(t *testing.T) {
	w := newWorld(t, testOrigin)
	in := w.input(w.issue(entryDocument))
	truth, ok := claimOf(Verify(in))
	if !ok || truth.Answers != all(string(Holds)) {
		t.Fatalf("the receipt doesn't hold: %+v", truth)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	text := []byte(unchecked(t, in.Receipt))
	held := 0
	for range 8_000 {
		if checkClaim(t, in, mutate(rng, text), truth) {
			held++
		}
		if t.Failed() {
			return
		}
	}
	// Some spaces, and parts whose verdict alone falls: not every change is fatal.
	if held == 0 || held > 4_000 {
		t.Errorf("%d of 8000 changed receipts still claim something: the test shows nothing", held)
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
	truth, _ := claimOf(Verify(in))
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
		if report := Verify(in); answersOf(report) == truth.Answers {
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
