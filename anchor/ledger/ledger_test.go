package ledger_test

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// A table is what the package says of it: every edge between known states, none
// twice, every state reachable, and the only ways back are by a reorganisation,
// or by the return of what one took away (I6).
func checkTable[S ~string](t *testing.T, table []ledger.Edge[S], states []S, parse func(string) (S, error)) {
	t.Helper()
	seen := map[ledger.Edge[S]]bool{}
	reached := map[S]bool{"": true}
	for _, e := range table {
		key := ledger.Edge[S]{From: e.From, To: e.To, By: e.By}
		if seen[key] || e.From == e.To || e.Cause == "" {
			t.Errorf("edge %s to %s is there twice, goes nowhere, or has no cause", e.From, e.To)
		}
		seen[key] = true
		if e.From != "" && !slices.Contains(states, e.From) || !slices.Contains(states, e.To) {
			t.Errorf("edge from %q to %q", e.From, e.To)
		}
		if !ledger.CanMove(table, e.By, e.From, e.To) || e.From != "" && !slices.Contains(ledger.Sources(table, e.By, e.To), string(e.From)) {
			t.Errorf("%s can't move from %s to %s", e.By, e.From, e.To)
		}
		back := slices.Index(states, e.To) < slices.Index(states, e.From)
		if back && e.By != ledger.ByRewind && e.From != states[len(states)-1] {
			t.Errorf("%s moves back from %s to %s", e.By, e.From, e.To)
		}
	}
	for range states {
		for _, e := range table {
			reached[e.To] = reached[e.To] || reached[e.From]
		}
	}
	for _, s := range states {
		if !reached[s] {
			t.Errorf("no way leads to %s", s)
		}
		if got, err := parse(string(s)); err != nil || got != s {
			t.Errorf("state %s reads back as %s, %v", s, got, err)
		}
	}
}

func TestTables(t *testing.T) {
	checkTable(t, ledger.AttemptEdges(), ledger.AttemptStates(), ledger.ParseAttemptState)
	checkTable(t, ledger.CoinEdges(), ledger.CoinStates(), ledger.ParseCoinState)
	movers := []ledger.Mover{ledger.ByAct, ledger.ByFollow, ledger.ByRewind, ledger.ByRecovery, ledger.ByOperator}
	for _, forbidden := range [][2]ledger.AttemptState{
		{ledger.Created, ledger.Sent}, // not without a stored signature (I5)
		{ledger.Created, ledger.Final}, {ledger.Sent, ledger.Final}, {ledger.Replaced, ledger.Mined},
		{ledger.Mined, ledger.Created}, {ledger.Mined, ledger.Replaced}, {ledger.Void, ledger.Mined}, {"", ledger.Signed}, {"", ledger.Sent},
	} {
		for _, by := range movers {
			if ledger.CanMove(ledger.AttemptEdges(), by, forbidden[0], forbidden[1]) {
				t.Errorf("%s can move from %q to %q", by, forbidden[0], forbidden[1])
			}
		}
	}
	if ledger.CanMove(ledger.AttemptEdges(), ledger.ByAct, ledger.Sent, ledger.Mined) {
		t.Error("the engine itself makes an attempt mined: only a block does")
	}
	if got := ledger.Sources(ledger.AttemptEdges(), ledger.ByFollow, ledger.Mined); !slices.Equal(got, []string{"created", "signed", "sent"}) {
		t.Errorf("follow makes mined of %v", got)
	}
}

// The page of the design draws the tables that the code has.
func TestStatesPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/design/0004-anchor-states.md")
	if err != nil {
		t.Fatal(err)
	}
	proofs, err := os.ReadFile("../../docs/design/0006-calendars.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		page  []byte
		title string
		rows  string
	}{
		{page, "## Attempts", rows(ledger.AttemptEdges())},
		{page, "## Coins", rows(ledger.CoinEdges())},
		{proofs, "## The states of a proof", rows(ledger.ProofEdges())},
	} {
		_, section, found := strings.Cut(string(part.page), part.title+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		_, table, ok := strings.Cut(section, "|---|---|---|---|\n")
		table, _, _ = strings.Cut(table, "\n\n")
		if !found || !ok || strings.TrimSpace(table) != strings.TrimSpace(part.rows) {
			t.Errorf("%s: the page's table isn't the code's, which is\n%s", part.title, part.rows)
		}
	}
	for _, s := range append(textsOf(ledger.AttemptStates()), textsOf(ledger.CoinStates())...) {
		if drawing := strings.Count(string(page), s); drawing < 3 {
			t.Errorf("the page doesn't draw the state %s", s)
		}
	}
	for _, s := range textsOf(ledger.ProofStates()) {
		if drawing := strings.Count(string(proofs), s); drawing < 3 {
			t.Errorf("the page of calendars doesn't draw the state %s", s)
		}
	}
}

func rows[S ~string](table []ledger.Edge[S]) string {
	var b strings.Builder
	for _, e := range table {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cmp.Or(string(e.From), "(no row)"), e.To, e.By, e.Cause)
	}
	return b.String()
}

func textsOf[S ~string](states []S) []string {
	var texts []string
	for _, s := range states {
		texts = append(texts, string(s))
	}
	return texts
}

func TestParseStates(t *testing.T) {
	for _, text := range []string{"", "Live", "live ", "unknown"} {
		if _, err := ledger.ParseProofState(text); err == nil {
			t.Errorf("%q is a proof state", text)
		}
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
