package receipt

import "testing"

func BenchmarkIssue(b *testing.B) {
	w := newWorld(b, testOrigin)
	e := w.evidence(entryDocument)
	for b.Loop() {
		if _, err := Issue(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b, testOrigin)
	text := []byte(unchecked(b, w.issue(entryDocument)))
	for b.Loop() {
		r, err := Decode(text)
		if err != nil {
			b.Fatal(err)
		}
		if Verify(w.input(r)).Outcome() != Holds {
			b.Fatal("doesn't hold")
		}
	}
}
