package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
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

func TestReportHasTheFacts(t *testing.T) {
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
	got = Verify(w.input(w.issue(entryReceived)))
	if d := cmp.Diff(&Promised{testTime, testTime.Add(3600e9)}, got.Promise); d != "" {
		t.Errorf("promise (-want +got):\n%s", d)
	}
}

// TestReportSaysNoMore: what isn't borne out by a verdict isn't in the report.
func TestReportSaysNoMore(t *testing.T) {
	w := newWorld(t, testOrigin)
	chains, identities := w.chains(), w.identities()
	for _, v := range w.verifications() {
		r := w.verify(v, chains, identities)
		if (r.Certification != nil) != (r.Certified.Status == Holds) {
			t.Errorf("%s: certification %v, verdict %s", v.Name, r.Certification, r.Certified.Status)
		}
		if (r.Origin != "") != (r.InLog.Status == Holds) {
			t.Errorf("%s: origin %q, verdict %s", v.Name, r.Origin, r.InLog.Status)
		}
		if r.Block != nil && r.Existed.Status != Holds && r.Existed.Reason != ReasonNotDeep {
			t.Errorf("%s: block %v, verdict %s", v.Name, r.Block, r.Existed.Status)
		}
		if r.Existed.Status == Holds && r.Block == nil {
			t.Errorf("%s: no block", v.Name)
		}
		if r.Promise != nil && r.InLog.Reason != ReasonNoCheckpoint {
			t.Errorf("%s: promise %v, verdict %s", v.Name, r.Promise, r.InLog.Status)
		}
	}
}

func TestOutcome(t *testing.T) {
	tests := []struct {
		verdicts [3]Status
		want     Status
	}{
		{[3]Status{Holds, Holds, Holds}, Holds},
		{[3]Status{Holds, NotAsked, NotAsked}, Holds},
		{[3]Status{NotAsked, Holds, NotAsked}, Holds},
		{[3]Status{Holds, Holds, Refuted}, Refuted},
		{[3]Status{NotYet, Refuted, NotAsked}, Refuted},
		{[3]Status{NotYet, Holds, NotAsked}, NotYet},
		{[3]Status{Holds, NotYet, NotYet}, NotYet},
		{[3]Status{NotAsked, NotAsked, NotAsked}, NotAsked},
	}
	for _, tt := range tests {
		r := Report{Existed: Verdict{Status: tt.verdicts[0]}, InLog: Verdict{Status: tt.verdicts[1]}, Certified: Verdict{Status: tt.verdicts[2]}}
		if got := r.Outcome(); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.verdicts, got, tt.want)
		}
	}
}

func TestReportAsJSON(t *testing.T) {
	w := newWorld(t, testOrigin)
	data, err := json.MarshalIndent(Verify(w.input(w.issue(entryDocument))), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Type, Outcome string
		Existed       Verdict
		InLog         Verdict `json:"in_log"`
		Block         map[string]any
		Certification map[string]string
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	wantBlock := map[string]any{"network": "regtest", "height": 5.0, "hash": w.anchor.Block.String(), "txid": w.anchor.TxID.String(),
		"time": "2026-11-21T09:30:00Z", "depth": 8.0, "asked": 6.0, "tip": 12.0, "test": true}
	if d := cmp.Diff(wantBlock, got.Block); d != "" || got.Type != "calpe/report/v1" || got.Outcome != "holds" || got.InLog.Status != Holds {
		t.Errorf("%s\nblock (-want +got):\n%s", data, d)
	}
	if got.Certification["valid_until"] != "2036-11-19" || got.Certification["document_type"] != "birth certificate" {
		t.Errorf("certification %v", got.Certification)
	}
}

func TestReportAsText(t *testing.T) {
	w := newWorld(t, testOrigin)
	tests := []struct {
		index int
		edit  func(in *Input)
		want  []string
		not   string
	}{
		{entryDocument, nil, []string{
			"Existed     HOLDS      before 2026-11-21 09:30:00 UTC, give or take two hours: in block 5 of regtest",
			"no evidential value", "In the log  HOLDS      of log.calpe.example, as entry 3.",
			"Certified   HOLDS      by Registro Civil de Calp (registry-of-calpe): birth certificate, reference REG-2026-000123, issued 2026-11-20, valid until 2036-11-19.",
			"TEST NETWORK regtest"}, "NOT"},
		{entryPlain, func(in *Input) { in.Identity = nil }, []string{"In the log  NOT ASKED  ", "existence only, issuer unknown"}, "REFUTED"},
		{entryPlain, func(in *Input) { in.Digest[0] ^= 1 }, []string{"Existed     REFUTED    ", "another document"}, "HOLDS"},
		{entryLate, nil, []string{"Existed     NOT YET    "}, "TEST NETWORK"},
	}
	for _, tt := range tests {
		in := w.input(w.issue(tt.index))
		if tt.edit != nil {
			tt.edit(&in)
		}
		var b bytes.Buffer
		if err := Verify(in).WriteText(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("no %q in\n%s", want, b.String())
			}
		}
		if strings.Contains(b.String(), tt.not) {
			t.Errorf("%q in\n%s", tt.not, b.String())
		}
	}
}

// TestEvidentialValue: a block of mainnet isn't called worthless, any other is.
func TestEvidentialValue(t *testing.T) {
	for network, want := range map[calpe.Network]bool{calpe.Mainnet: false, calpe.Testnet4: true, calpe.Regtest: true} {
		b := &Block{Network: network, Test: network.IsTest()}
		if got := strings.Contains(evidentialValue(b), "no evidential value"); got != want {
			t.Errorf("%s: %v", network, got)
		}
		if got := (Report{Block: b}).TestNetwork(); got != want {
			t.Errorf("%s: TestNetwork %v", network, got)
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestWriteTextReportsFailure(t *testing.T) {
	full := errors.New("disk full")
	if err := (Report{}).WriteText(failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("WriteText: %v", err)
	}
}

func TestMalformedReport(t *testing.T) {
	_, err := Decode([]byte("{}"))
	r := Malformed(err)
	if answersOf(r) != all("refuted malformed") || r.Outcome() != Refuted || !strings.Contains(r.Existed.Text, "missing") {
		t.Errorf("%+v", r)
	}
}

// A reason that refutes every verdict is told once, or people read it three times.
func TestWriteTextTellsAReasonOnce(t *testing.T) {
	var text strings.Builder
	if err := Malformed(errors.New("it is a shopping list")).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if strings.Count(text.String(), "shopping list") != 1 || strings.Count(text.String(), "For the same reason.") != 2 {
		t.Errorf("text:\n%s", text.String())
	}
}
