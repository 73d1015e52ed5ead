package anchor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
)

// said are the messages of the log that contain one of the words, with their level.
func said(logged string, words ...string) (lines []string) {
	for line := range strings.SplitSeq(logged, "\n") {
		if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
			continue
		}
		_, line, _ = strings.Cut(line, "level=")
		level, rest, _ := strings.Cut(line, " msg=")
		if strings.HasPrefix(rest, `"`) {
			rest, _, _ = strings.Cut(rest[1:], `"`)
		} else {
			rest, _, _ = strings.Cut(rest, " ")
		}
		lines = append(lines, level+" "+rest)
	}
	return lines
}

func wantSaid(t *testing.T, logged string, words []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, said(logged, words...)); diff != "" {
		t.Errorf("the log (-want +got):\n%s\n%s", diff, logged)
	}
}

// A failure that goes on is told once, another one again, and its end once.
func TestFailureIsToldOnce(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	down := func(err error) func(string) (bool, error) {
		return func(string) (bool, error) { return false, err }
	}
	for _, err := range []error{bitcoin.ErrUnavailable, bitcoin.ErrUnavailable, bitcoin.ErrWarmingUp, bitcoin.ErrUnauthorized, bitcoin.ErrUnauthorized, nil, nil, bitcoin.ErrUnavailable} {
		w.node.setFault(down(err))
		if err == nil {
			w.node.setFault(nil)
		}
		if got := w.step(); !errors.Is(got, err) {
			t.Fatalf("step gave %v", got)
		}
	}
	words := []string{"step"}
	wantSaid(t, w.logged.String(), words,
		"WARN anchor step failed", "ERROR anchor step failed", "INFO anchor steps succeed again", "WARN anchor step failed")
	if !strings.Contains(w.logged.String(), "causes=unauthorized ") || !strings.Contains(w.logged.String(), "causes=node-down ") {
		t.Errorf("the log doesn't name the causes:\n%s", w.logged.String())
	}
	// The end of the server is no failure.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := w.logged.Len()
	if err := w.engine.Step(ctx, w.epoch); err == nil {
		t.Fatal("a step succeeded without its context")
	}
	if w.logged.Len() != before {
		t.Errorf("the end of the server was told as a failure:\n%s", w.logged.String()[before:])
	}
}

func TestForeignSpendIsToldOnce(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.node.mine(foreignSpend(w.firstCoin, func(*wire.MsgTx) {}))
	for range 3 {
		w.stepWants(anchor.ErrForeignSpend)
		w.node.empty(1)
	}
	wantSaid(t, w.logged.String(), []string{"that isn't ours", "step"},
		"ERROR a coin of the anchor key was spent by a transaction that isn't ours", "ERROR anchor step failed")
	w.node.cut(4, false)
	w.node.empty(5)
	w.mustStep()
	wantSaid(t, w.logged.String(), []string{"succeed"}, "INFO anchor steps succeed again")
}

func TestStuckAttemptIsToldOnce(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.target = 2
	w.restart()
	w.log.grow(1)
	w.mustStep()
	told := []int{}
	for n := 1; n <= 6; n++ {
		w.node.empty(1)
		w.mustStep()
		told = append(told, len(said(w.logged.String(), "stuck")))
	}
	if diff := cmp.Diff([]int{0, 0, 0, 1, 1, 1}, told); diff != "" { // twice the goal of 2 blocks
		t.Errorf("told after each block (-want +got):\n%s", diff)
	}
	w.node.mine()
	w.mustStep()
	w.mustStep()
	wantSaid(t, w.logged.String(), []string{"stuck"}, "WARN anchor is stuck: no block takes any of its attempts", "INFO anchor is not stuck any more")
}

func TestReorganisationIsTold(t *testing.T) {
	w := newWorld(t, newMemStore())
	var depths []uint32
	w.reorganised = func(depth uint32) { depths = append(depths, depth) }
	w.restart()
	w.node.empty(10)
	w.mustStep()
	for _, depth := range []int{1, 5, 6} { // 6 is what counts as final
		w.node.cut(depth, false)
		w.node.empty(depth + 1)
		w.mustStep()
	}
	if diff := cmp.Diff([]uint32{1, 5, 6}, depths); diff != "" {
		t.Errorf("depths (-want +got):\n%s", diff)
	}
	wantSaid(t, w.logged.String(), []string{"reorganised"},
		"WARN bitcoin chain was reorganised", "WARN bitcoin chain was reorganised", "ERROR bitcoin chain was reorganised deeper than what counts as final")
}

func TestCausesOf(t *testing.T) {
	if got := anchor.CausesOf(nil); got != nil {
		t.Errorf("nil has the causes %v", got)
	}
	for _, c := range []struct {
		err  error
		want []anchor.Cause
	}{
		{errors.New("x"), []anchor.Cause{anchor.CauseOther}},
		{fmt.Errorf("%w: %w", anchor.ErrUnsigned, wallet.ErrPolicy), []anchor.Cause{anchor.CausePolicy, anchor.CauseUnsigned}},
		{errors.Join(fmt.Errorf("x: %w", anchor.ErrNodesDisagree), wallet.ErrOutOfFunds), []anchor.Cause{anchor.CauseNodesDisagree, anchor.CauseOutOfFunds}},
		{fmt.Errorf("%w: %w", anchor.ErrUnsigned, signer.ErrHistory), []anchor.Cause{anchor.CausePolicy, anchor.CauseUnsigned}},
		{fmt.Errorf("%w: %w", anchor.ErrUnsigned, signer.ErrChain), []anchor.Cause{anchor.CausePolicy, anchor.CauseUnsigned}},
		{fmt.Errorf("%w: %w", anchor.ErrUnsigned, signer.ErrState), []anchor.Cause{anchor.CausePolicy, anchor.CauseUnsigned}},
		{fmt.Errorf("%w: %w", anchor.ErrUnsigned, signer.ErrBudget), []anchor.Cause{anchor.CauseCap, anchor.CauseUnsigned}},
		{errors.Join(bitcoin.ErrUnavailable, bitcoin.ErrWarmingUp), []anchor.Cause{anchor.CauseNodeDown}},
	} {
		got := anchor.CausesOf(c.err)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.err, diff)
		}
		for _, cause := range got {
			if !slices.Contains(anchor.Causes(), cause) {
				t.Errorf("%q isn't in the list of causes", cause)
			}
		}
	}
	if all := anchor.Causes(); len(slices.Compact(slices.Sorted(slices.Values(all)))) != len(all) {
		t.Errorf("a cause is listed twice: %v", all)
	}
}

// monitorWorld is a monitor over two fake nodes.
type monitorWorld struct {
	*anchor.Monitor
	node   *fakeNode
	second *fakeWitness
	now    time.Time
	logged strings.Builder
}

func newMonitorWorld(t *testing.T) *monitorWorld {
	t.Helper()
	m := &monitorWorld{node: newFakeNode(t)}
	m.node.empty(30)
	m.second = &fakeWitness{fakeNode: m.node, network: calpe.Regtest}
	m.now = m.tip(t).Add(time.Minute)
	var err error
	m.Monitor, err = anchor.NewMonitor(anchor.MonitorConfig{
		Node: m.node, Second: m.second, Depth: 6, Now: func() time.Time { return m.now },
		Logger: slog.New(slog.NewTextHandler(&m.logged, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tip is when the newest block was made.
func (m *monitorWorld) tip(t *testing.T) time.Time {
	t.Helper()
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	return m.node.chain[len(m.node.chain)-1].Header.Timestamp
}

func TestMonitor(t *testing.T) {
	m := newMonitorWorld(t)
	m.node.rate = 4321
	m.Look(t.Context())
	s := m.Status()
	if s.Err != nil || s.Height != 30 || !s.Tip.Equal(m.tip(t)) || s.Estimate != 4321 || s.Lags || !s.Time.Equal(m.now) ||
		s.Second == nil || s.Second.Height != 30 || s.Second.Err != nil || s.Second.Lags || s.Second.Disagree {
		t.Errorf("status %+v, second %+v", s, s.Second)
	}
	if m.logged.Len() != 0 {
		t.Errorf("all is well, and the log says:\n%s", m.logged.String())
	}
}

// Each state is told once when it begins and once when it ends.
func TestMonitorTells(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil, mend func(m *monitorWorld)
		want        []string
	}{
		"node down": {
			func(m *monitorWorld) {
				m.node.setFault(func(string) (bool, error) { return false, bitcoin.ErrUnavailable })
				m.second.down = nil
			},
			func(m *monitorWorld) { m.node.setFault(nil) },
			[]string{"WARN bitcoin node can't be asked", "WARN second bitcoin node can't be asked: nothing becomes final", "INFO bitcoin node answers again", "INFO second bitcoin node answers again"},
		},
		"stale tip": {
			func(m *monitorWorld) { m.now = m.now.Add(3 * time.Hour) },
			func(m *monitorWorld) { m.node.mine(); m.now = m.now.Add(-3 * time.Hour) },
			[]string{"ERROR bitcoin node lags behind the chain", "INFO bitcoin node has caught up"},
		},
		"behind the second": {
			func(m *monitorWorld) { m.second.behind = ^uint32(2) }, // 3 blocks ahead
			func(m *monitorWorld) { m.second.behind = ^uint32(1) },
			[]string{"ERROR bitcoin node lags behind the chain", "INFO bitcoin node has caught up"},
		},
		"second behind": {
			func(m *monitorWorld) { m.second.behind = 3 },
			func(m *monitorWorld) { m.second.behind = 2 },
			[]string{"WARN second bitcoin node lags behind the first: nothing new becomes final", "INFO second bitcoin node has caught up"},
		},
		"second on another chain": {
			func(m *monitorWorld) { m.second.other = map[uint32]bool{25: true} },
			func(m *monitorWorld) { m.second.other = nil },
			[]string{"ERROR the two bitcoin nodes disagree: nothing becomes final", "INFO the two bitcoin nodes agree again"},
		},
		"another block near the tip": {
			func(m *monitorWorld) { m.second.other = map[uint32]bool{26: true, 30: true} },
			func(m *monitorWorld) { m.second.other = nil },
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMonitorWorld(t)
			m.Look(t.Context())
			tc.spoil(m)
			for range 3 {
				m.Look(t.Context())
			}
			half := len(said(m.logged.String(), "bitcoin"))
			tc.mend(m)
			for range 3 {
				m.Look(t.Context())
			}
			wantSaid(t, m.logged.String(), []string{"bitcoin"}, tc.want...)
			if half*2 != len(tc.want) {
				t.Errorf("%d lines before it was mended, want %d", half, len(tc.want)/2)
			}
		})
	}
}

// What a node said before it went down stays to be seen; the end of the server
// is nobody's failure; and without a second node there is none to miss.
func TestMonitorKeepsTheLast(t *testing.T) {
	m := newMonitorWorld(t)
	m.Look(t.Context())
	m.node.setFault(func(string) (bool, error) { return false, bitcoin.ErrUnavailable })
	m.Look(t.Context())
	if s := m.Status(); !errors.Is(s.Err, bitcoin.ErrUnavailable) || s.Height != 30 || !errors.Is(s.Second.Err, bitcoin.ErrUnavailable) {
		t.Errorf("status %+v, second %+v", s, s.Second)
	}
	m.node.setFault(nil)
	m.Look(t.Context())
	logged := m.logged.Len()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Look(ctx)
	if err := m.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if s := m.Status(); s.Err != nil || m.logged.Len() != logged {
		t.Errorf("the end of the server was taken for a node's: %v\n%s", s.Err, m.logged.String())
	}

	alone, err := anchor.NewMonitor(anchor.MonitorConfig{Node: m.node, Now: func() time.Time { return m.now }})
	if err != nil {
		t.Fatal(err)
	}
	alone.Look(t.Context())
	if s := alone.Status(); s.Second != nil || s.Height != 30 || s.Lags {
		t.Errorf("status %+v", s)
	}
	if _, err := anchor.NewMonitor(anchor.MonitorConfig{}); err == nil {
		t.Error("a monitor without a node was made")
	}
	if _, err := anchor.NewMonitor(anchor.MonitorConfig{Node: m.node, Interval: -1}); err == nil {
		t.Error("a monitor that looks without end was made")
	}
}

func TestBlockTime(t *testing.T) {
	var b ledger.Block
	b.Header[68], b.Header[69], b.Header[70], b.Header[71] = 0x29, 0xab, 0x5f, 0x49 // of Bitcoin's first block
	if got, want := b.Time(), time.Date(2009, 1, 3, 18, 15, 5, 0, time.UTC); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
