package ledger_test

import (
	"math"
	"slices"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// The table is what the package says of it: every edge between known states,
// none twice, every state reachable, and the only ways back are by a
// reorganisation (I6).
func TestEdges(t *testing.T) {
	states := ledger.AttemptStates()
	seen := map[[2]ledger.AttemptState]bool{}
	for _, e := range ledger.Edges() {
		key := [2]ledger.AttemptState{e.From, e.To}
		if seen[key] || e.From == e.To || e.Cause == "" {
			t.Errorf("edge %s to %s is there twice, goes nowhere, or has no cause", e.From, e.To)
		}
		seen[key] = true
		if !slices.Contains(states, e.From) || !slices.Contains(states, e.To) {
			t.Errorf("edge from %q to %q", e.From, e.To)
		}
		if !ledger.CanMove(e.From, e.To) {
			t.Errorf("can't move from %s to %s", e.From, e.To)
		}
		back := slices.Index(states, e.To) < slices.Index(states, e.From)
		if back && e.Cause == "engine" || back && e.Cause == "block connected" {
			t.Errorf("%s moves an attempt back from %s to %s", e.Cause, e.From, e.To)
		}
	}
	reached := map[ledger.AttemptState]bool{ledger.Created: true}
	for range states {
		for _, e := range ledger.Edges() {
			reached[e.To] = reached[e.To] || reached[e.From]
		}
	}
	for _, s := range states {
		if !reached[s] {
			t.Errorf("no way leads to %s", s)
		}
		if got, err := ledger.ParseAttemptState(string(s)); err != nil || got != s {
			t.Errorf("state %s reads back as %s, %v", s, got, err)
		}
	}
	for _, forbidden := range [][2]ledger.AttemptState{
		{ledger.Created, ledger.Sent}, // not without a stored signature (I5)
		{ledger.Created, ledger.Final}, {ledger.Sent, ledger.Final}, {ledger.Replaced, ledger.Mined},
		{ledger.Mined, ledger.Created}, {ledger.Mined, ledger.Replaced}, {ledger.Void, ledger.Mined}, {"", ledger.Created},
	} {
		if ledger.CanMove(forbidden[0], forbidden[1]) {
			t.Errorf("can move from %q to %q", forbidden[0], forbidden[1])
		}
	}
}

func TestParseStates(t *testing.T) {
	for _, s := range []ledger.CoinState{ledger.CoinLive, ledger.CoinSpent, ledger.CoinForeign, ledger.CoinVoid} {
		if got, err := ledger.ParseCoinState(string(s)); err != nil || got != s {
			t.Errorf("%s reads back as %s, %v", s, got, err)
		}
	}
	for _, text := range []string{"", "Live", "live ", "unknown"} {
		if _, err := ledger.ParseCoinState(text); err == nil {
			t.Errorf("%q is a coin state", text)
		}
		if _, err := ledger.ParseAttemptState(text); err == nil {
			t.Errorf("%q is an attempt state", text)
		}
	}
}

func TestFeeRate(t *testing.T) {
	for _, row := range []struct {
		rate  ledger.FeeRate
		vsize int
		fee   int64
	}{{1000, 161, 161}, {1001, 161, 162}, {0, 161, 0}, {1, 1, 1}, {1500, 2, 3}, {100_000_000, 100_000, 10_000_000_000}} {
		if got := row.rate.Fee(row.vsize); got != row.fee {
			t.Errorf("%v for %d vB is %d sat, want %d", row.rate, row.vsize, got, row.fee)
		}
	}
	for _, row := range []struct {
		x    float64
		want ledger.FeeRate
		text string
	}{{1, 1000, "1.000 sat/vB"}, {2.5, 2500, "2.500 sat/vB"}, {0.0001, 1, "0.001 sat/vB"}, {0, 0, "0.000 sat/vB"}, {100_000, 100_000_000, "100000.000 sat/vB"}} {
		if got, err := ledger.FeeRateFromSatPerVB(row.x); err != nil || got != row.want || got.String() != row.text {
			t.Errorf("%v sat/vB is %v, %v", row.x, got, err)
		}
	}
	for _, x := range []float64{-1, math.NaN(), math.Inf(1), 100_001} {
		if _, err := ledger.FeeRateFromSatPerVB(x); err == nil {
			t.Errorf("%v sat/vB is a fee rate", x)
		}
	}
}

func TestBlockPrev(t *testing.T) {
	var b ledger.Block
	for i := range b.Header {
		b.Header[i] = byte(i)
	}
	want := calpe.BlockHash(b.Header[4:36])
	if got := b.Prev(); got != want || got[0] != 4 || got[31] != 35 {
		t.Errorf("block before is %v", got)
	}
}

func TestAnswerKinds(t *testing.T) {
	for kind, want := range map[ledger.AnswerKind]bool{
		ledger.Accepted: true, ledger.AlreadyKnown: true, ledger.AlreadyMined: true, ledger.FeeTooLow: false,
		ledger.InputsMissing: false, ledger.Conflict: false, ledger.Policy: false, ledger.OperatorCap: false, ledger.Later: false, "": false,
	} {
		if kind.Taken() != want {
			t.Errorf("%q taken: %v", kind, !want)
		}
	}
}
