package metrics

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/stamp"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/intake"
)

// State is what the database knows at a scrape. Every server reads the same, so
// that no series stops when another server takes the lead.
type State struct {
	Marks calpe.Watermarks
	// Unsealed and Unanchored are when the oldest entry was recorded that no
	// checkpoint, and no anchor in a block, covers; zero if there is none.
	Unsealed, Unanchored time.Time
	Chain                ledger.Snapshot
	Funds                wallet.Funds
	FundsState           wallet.FundsState
	Caps                 wallet.Caps
	Spent                int64       // satoshis of the day's budget
	Anchors, Fees        int64       // anchors that are final, and what they cost in satoshis
	Calendars            stamp.Alarm // empty: no calendars anchor the log
	EachCalendar         []CalendarState
}

// CalendarState is how one of the configured calendars does.
type CalendarState struct {
	Address string
	State   stamp.Alarm
}

// series is one gauge or counter that the collector gives.
type series struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// collector reads the sources at each scrape.
type collector struct {
	Sources
	leads func() bool // this server leads the anchoring
	all   map[string]series
}

// described lists what the collector gives.
func described() []struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
} {
	type labels = []string
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return []struct {
		name, help string
		kind       prometheus.ValueType
		labels     []string
	}{
		{"calpe_state_read_success", "1 if the database could be read for this scrape. If not, what is read from it is missing.", gauge, nil},
		{"calpe_log_entries", "Entries of the log that have reached a state; each state includes those after it.", gauge, labels{"state"}},
		{"calpe_oldest_unsealed_entry_seconds", "Age of the oldest entry that no checkpoint covers; 0 if there is none.", gauge, nil},
		{"calpe_oldest_unanchored_entry_seconds", "Age of the oldest entry that no anchor in a block covers; 0 if there is none.", gauge, nil},
		{"calpe_final_anchors_total", "Anchors that are final.", counter, nil},
		{"calpe_anchor_fees_satoshis_total", "Fees of the final anchors.", counter, nil},
		{"calpe_anchor_day_fees_satoshis", "What the anchors of the last 24 hours cost, or may still cost, but for the one that waits.", gauge, nil},
		{"calpe_anchor_day_cap_satoshis", "CALPE_ANCHOR_MAX_DAY.", gauge, nil},
		{"calpe_anchor_fee_cap_satoshis", "CALPE_ANCHOR_MAX_FEE.", gauge, nil},
		{"calpe_anchor_fee_rate_cap_satoshis_per_vbyte", "CALPE_ANCHOR_MAX_FEE_RATE.", gauge, nil},
		{"calpe_anchor_attempts", "Attempts of the anchor that waits for a block; 0 if none waits.", gauge, nil},
		{"calpe_anchor_attempt_fee_rate_satoshis_per_vbyte", "Fee rate of the newest attempt; 0 if none waits.", gauge, nil},
		{"calpe_anchor_attempt_blocks", "Blocks since the newest attempt was made; 0 if none waits.", gauge, nil},
		{"calpe_anchor_attempt_sent_seconds", "Time since the newest attempt was last handed to the node; 0 if none waits.", gauge, nil},
		{"calpe_anchor_waiting_blocks", "Blocks since the first attempt of the anchor that waits; 0 if none waits.", gauge, nil},
		{"calpe_balance_satoshis", "What the anchor key owns: the coin of the chain, and deposits that wait to join it.", gauge, labels{"kind"}},
		{"calpe_deposits", "Deposits that wait to join an anchor.", gauge, nil},
		{"calpe_anchors_left", "Anchors that the balance pays for, at the present rate and at the caps.", gauge, labels{"rate"}},
		{"calpe_funds_state", "1 for the state that the funds are in: ample, low or out.", gauge, labels{"state"}},
		{"calpe_calendars_state", "1 for the state that anchoring by calendars is in: ok, silent or stalled; 0 of all if no calendars anchor the log.", gauge, labels{"state"}},
		{"calpe_calendars_each_state", "1 for the state that one of the configured calendars is in, for itself: ok, silent or stalled; missing if no calendars anchor the log.", gauge, labels{"calendar", "state"}},
		{"calpe_foreign_spend", "1 if a coin of the anchor key was spent by somebody else.", gauge, nil},
		{"calpe_followed_height_blocks", "Height of the newest block that was followed.", gauge, nil},
		{"calpe_followed_tip_age_seconds", "Time since the newest block that was followed, as its header claims; 0 before the first.", gauge, nil},

		{"calpe_anchor_step_timestamp_seconds", "When this server's engine ended its last step; 0 if it never led.", gauge, nil},
		{"calpe_anchor_step_failing", "1 if the last step of this server's engine failed for the cause.", gauge, labels{"cause"}},
		{"calpe_anchor_limit", "1 if the limit holds the fee of the anchor that waits.", gauge, labels{"limit"}},

		{"calpe_bitcoin_up", "1 if the node could be asked at the last look.", gauge, labels{"node"}},
		{"calpe_bitcoin_height_blocks", "Height of the node's newest block.", gauge, labels{"node"}},
		{"calpe_bitcoin_tip_age_seconds", "Time since the node's newest block, as its header claims.", gauge, nil},
		{"calpe_bitcoin_estimate_satoshis_per_vbyte", "The node's estimate for CALPE_ANCHOR_TARGET blocks; 0 if it has none.", gauge, nil},
		{"calpe_bitcoin_lags", "1 if the node lags: its newest block is too old, or the other node has more.", gauge, labels{"node"}},
		{"calpe_bitcoin_behind_second_blocks", "Blocks that the second node has more than the first; negative if it has fewer, 0 without one.", gauge, nil},
		{"calpe_bitcoin_nodes_disagree", "1 if the second node has another block where an anchor would be final.", gauge, nil},

		{"calpe_intake_state", "1 for the state that this server's intake is in: joining, open, halted or stopped.", gauge, labels{"state"}},
		{"calpe_intake_queue_length", "Submissions that wait to be recorded.", gauge, nil},
	}
}

func newCollector(s Sources, leads func() bool) *collector {
	c := &collector{Sources: s, leads: leads, all: map[string]series{}}
	for _, d := range described() {
		c.all[d.name] = series{prometheus.NewDesc(d.name, d.help, d.labels, nil), d.kind}
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range c.all {
		ch <- s.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, value float64, labels ...string) {
		s := c.all[name]
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, value, labels...)
	}
	if c.Engine != nil {
		c.collectEngine(put)
	}
	if c.Nodes != nil {
		c.collectNodes(put)
	}
	c.collectIntake(put)
	ctx, cancel := context.WithTimeout(context.Background(), databaseTime)
	defer cancel()
	state, err := c.State(ctx)
	put("calpe_state_read_success", truth(err == nil))
	if err != nil {
		c.Logger.WarnContext(ctx, "metrics couldn't read the database", slog.Any("error", err))
		return
	}
	c.collectLog(put, state)
	if c.Engine != nil {
		c.collectAttempts(put, state)
		c.collectFunds(put, state)
	}
}

// putFunc gives one value of a series.
type putFunc func(name string, value float64, labels ...string)

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// since is the age of what happened then; 0 of what never did.
func (c *collector) since(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return max(0, c.Now().Sub(at).Seconds())
}

// oneOf gives 1 for the word that holds, and 0 for the others.
func oneOf[W ~string](put putFunc, name string, holds W, words ...W) {
	for _, w := range words {
		put(name, truth(w == holds), string(w))
	}
}

func satPerVB(r ledger.FeeRate) float64 { return float64(r) / float64(ledger.SatPerVB) }

func (c *collector) collectLog(put putFunc, s State) {
	for _, mark := range []struct {
		state calpe.State
		size  uint64
	}{
		{calpe.Received, s.Marks.Next}, {calpe.Checkpointed, s.Marks.Checkpointed}, {calpe.Broadcast, s.Marks.Broadcast},
		{calpe.Confirmed, s.Marks.Confirmed}, {calpe.Final, s.Marks.Final},
	} {
		put("calpe_log_entries", float64(mark.size), mark.state.String())
	}
	put("calpe_oldest_unsealed_entry_seconds", c.since(s.Unsealed))
	put("calpe_oldest_unanchored_entry_seconds", c.since(s.Unanchored))
	oneOf(put, "calpe_calendars_state", s.Calendars, stamp.AlarmNone, stamp.AlarmSilent, stamp.AlarmStalled)
	for _, one := range s.EachCalendar {
		for _, state := range [...]stamp.Alarm{stamp.AlarmNone, stamp.AlarmSilent, stamp.AlarmStalled} {
			put("calpe_calendars_each_state", truth(state == one.State), one.Address, string(state))
		}
	}
	put("calpe_foreign_spend", truth(s.Chain.Foreign != nil))
	put("calpe_followed_height_blocks", float64(s.Chain.Tip.Height))
	var tip time.Time
	if s.Chain.Tip != (ledger.Block{}) {
		tip = s.Chain.Tip.Time()
	}
	put("calpe_followed_tip_age_seconds", c.since(tip))
}

func (c *collector) collectAttempts(put putFunc, s State) {
	var newest, first ledger.Attempt
	if n := len(s.Chain.Attempts); n > 0 {
		first, newest = s.Chain.Attempts[0], s.Chain.Attempts[n-1]
	} else {
		first.Tip, newest.Tip = s.Chain.Tip.Height, s.Chain.Tip.Height
	}
	waited := func(from uint32) float64 { return max(0, float64(s.Chain.Tip.Height)-float64(from)) }
	put("calpe_anchor_attempts", float64(len(s.Chain.Attempts)))
	put("calpe_anchor_attempt_fee_rate_satoshis_per_vbyte", satPerVB(newest.FeeRate()))
	put("calpe_anchor_attempt_blocks", waited(newest.Tip))
	put("calpe_anchor_attempt_sent_seconds", c.since(newest.LastSent))
	put("calpe_anchor_waiting_blocks", waited(first.Tip))
	put("calpe_final_anchors_total", float64(s.Anchors))
	put("calpe_anchor_fees_satoshis_total", float64(s.Fees))
	put("calpe_anchor_day_fees_satoshis", float64(s.Spent))
	put("calpe_anchor_day_cap_satoshis", float64(s.Caps.Day))
	put("calpe_anchor_fee_cap_satoshis", float64(s.Caps.Fee))
	put("calpe_anchor_fee_rate_cap_satoshis_per_vbyte", satPerVB(s.Caps.FeeRate))
}

func (c *collector) collectFunds(put putFunc, s State) {
	var coin int64
	if s.Chain.Live != nil {
		coin = s.Chain.Live.Value
	}
	waiting := 0
	for _, d := range s.Chain.Deposits {
		if d.State == ledger.CoinLive {
			waiting++
		}
	}
	put("calpe_balance_satoshis", float64(coin), "coin")
	put("calpe_balance_satoshis", float64(s.Funds.Value-coin), "deposits")
	put("calpe_deposits", float64(waiting))
	put("calpe_anchors_left", float64(s.Funds.Left), "present")
	put("calpe_anchors_left", float64(s.Funds.LeftAtCap), "cap")
	oneOf(put, "calpe_funds_state", s.FundsState, wallet.FundsAmple, wallet.FundsLow, wallet.FundsOut)
}

func (c *collector) collectEngine(put putFunc) {
	s := c.Engine()
	at := float64(0)
	if !s.Time.IsZero() {
		at = float64(s.Time.UnixMilli()) / 1000
	}
	put("calpe_anchor_step_timestamp_seconds", at)
	if !c.leads() { // what it ended with is over: another server goes on
		s.Err, s.Limit = nil, anchor.NoLimit
	}
	failing := anchor.CausesOf(s.Err)
	for _, cause := range anchor.Causes() {
		put("calpe_anchor_step_failing", truth(slices.Contains(failing, cause)), string(cause))
	}
	oneOf(put, "calpe_anchor_limit", s.Limit, anchor.LimitFeeRate, anchor.LimitFee, anchor.LimitDay, anchor.LimitFunds)
}

func (c *collector) collectNodes(put putFunc) {
	s := c.Nodes()
	put("calpe_bitcoin_up", truth(s.Err == nil && !s.Time.IsZero()), string(FirstNode))
	put("calpe_bitcoin_height_blocks", float64(s.Height), string(FirstNode))
	put("calpe_bitcoin_lags", truth(s.Lags), string(FirstNode))
	put("calpe_bitcoin_tip_age_seconds", c.since(s.Tip))
	put("calpe_bitcoin_estimate_satoshis_per_vbyte", satPerVB(s.Estimate))
	second := s.Second
	if second == nil {
		put("calpe_bitcoin_behind_second_blocks", 0)
		put("calpe_bitcoin_nodes_disagree", 0)
		return
	}
	behind := float64(0)
	if s.Height > 0 && second.Height > 0 {
		behind = float64(second.Height) - float64(s.Height)
	}
	put("calpe_bitcoin_up", truth(second.Err == nil && !s.Time.IsZero()), string(SecondNode))
	put("calpe_bitcoin_height_blocks", float64(second.Height), string(SecondNode))
	put("calpe_bitcoin_lags", truth(second.Lags), string(SecondNode))
	put("calpe_bitcoin_behind_second_blocks", behind)
	put("calpe_bitcoin_nodes_disagree", truth(second.Disagree))
}

func (c *collector) collectIntake(put putFunc) {
	s := c.Intake()
	oneOf(put, "calpe_intake_state", s.State, intake.StateJoining, intake.StateOpen, intake.StateHalted, intake.StateStopped)
	put("calpe_intake_queue_length", float64(s.Queued))
}
