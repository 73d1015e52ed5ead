package receipt

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
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

const noCertification = "not-asked no-certification"

func TestVerifyStates(t *testing.T) {
	w := newWorld(t, testOrigin)
	tests := []struct {
		name    string
		index   int
		edit    func(*Input)
		want    answers
		outcome Status
	}{
		{"certified", entryDocument, nil, answers{"holds", "holds", "holds"}, Holds},
		{"anchored", entryPlain, nil, answers{"holds", "holds", noCertification}, Holds},
		{"last of the anchored", entryFiller, nil, answers{"holds", "holds", noCertification}, Holds},
		{"checkpointed", entryLate, nil, answers{"not-yet no-anchor", "holds", noCertification}, NotYet},
		{"received", entryReceived, nil, answers{"not-yet no-checkpoint", "not-yet no-checkpoint", noCertification}, NotYet},
		{"received, not pinned", entryReceived, func(in *Input) { in.Identity = nil },
			answers{"not-yet no-checkpoint", "not-asked no-identity", noCertification}, NotYet},
		{"not pinned", entryDocument, func(in *Input) { in.Identity = nil },
			answers{"holds", "not-asked no-identity", "not-asked no-identity"}, Holds},
		{"no headers", entryDocument, func(in *Input) { in.Headers = nil },
			answers{"not-asked no-headers", "holds", "holds"}, Holds},
		{"nothing given", entryPlain, func(in *Input) { in.Headers, in.Identity = nil, nil },
			answers{"not-asked no-headers", "not-asked no-identity", noCertification}, NotAsked},
		{"just deep enough", entryPlain, func(in *Input) { in.Headers = w.upTo(anchorHeight + 5) },
			answers{"holds", "holds", noCertification}, Holds},
		{"one block short", entryPlain, func(in *Input) { in.Headers = w.upTo(anchorHeight + 4) },
			answers{"not-yet not-deep", "holds", noCertification}, NotYet},
		{"one block asked for", entryPlain, func(in *Input) { in.Headers, in.Depth = w.upTo(anchorHeight), 1 },
			answers{"holds", "holds", noCertification}, Holds},
		{"deeper than there is", entryPlain, func(in *Input) { in.Depth = 9 },
			answers{"not-yet not-deep", "holds", noCertification}, NotYet},
		{"headers end before", entryPlain, func(in *Input) { in.Headers = w.upTo(anchorHeight - 1) },
			answers{"not-yet headers-end", "holds", noCertification}, NotYet},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := w.input(w.issue(tt.index))
			if tt.edit != nil {
				tt.edit(&in)
			}
			got := Verify(in)
			if d := cmp.Diff(tt.want, answersOf(got)); d != "" {
				t.Errorf("verdicts (-want +got):\n%s", d)
			}
			if got.Outcome() != tt.outcome {
				t.Errorf("outcome %s, want %s", got.Outcome(), tt.outcome)
			}
		})
	}
}

func (w *world) upTo(height int) *headers.Chain { return readChain(w.tb, w.raw[:(height+1)*80]) }

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
