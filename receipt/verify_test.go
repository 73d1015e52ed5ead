package receipt

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// answers are the three statuses with their reasons, as "status reason".
type answers struct{ Existed, InLog, Certified string }

func answersOf(r Report) answers {
	text := func(v Verdict) string {
		if v.Reason == "" {
			return string(v.Status)
		}
		return string(v.Status) + " " + string(v.Reason)
	}
	return answers{text(r.Existed), text(r.InLog), text(r.Certified)}
}

func TestVerifyReportsTheFacts(t *testing.T) {
	w := newWorld(t, testOrigin)
	got := Verify(w.input(w.issue(entryDocument)))
	want := Report{
		Digest: w.digests[entryDocument], Log: w.id.Hash(), Index: entryDocument, Origin: testOrigin,
		Block: &Block{Network: calpe.Regtest, Height: anchorHeight, Hash: w.anchor.Block, TxID: w.anchor.TxID,
			Time: testTime, Depth: 8, Asked: 6, Tip: tipHeight, Test: true},
		Certification: &Certified{"registry-of-calpe", "Registro Civil de Calp", "birth certificate", "REG-2026-000123",
			statement.Date("2026-11-20"), statement.Date("2036-11-19")},
	}
	got.Existed, got.InLog, got.Certified = Verdict{}, Verdict{}, Verdict{}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	var text bytes.Buffer
	if err := Verify(w.input(w.issue(entryDocument))).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + text.String())
}
