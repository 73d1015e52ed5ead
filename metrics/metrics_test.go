package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/stamp"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/metrics"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

var now = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

// world is a server's parts, as far as metrics see them.
type world struct {
	*metrics.Metrics
	state    metrics.State
	stateErr error
	engine   anchor.Status
	nodes    anchor.NodesStatus
	intake   intake.Status
	logged   strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Metrics: metrics.New("calped v1.2.3")}
	w.nodes = anchor.NodesStatus{Time: now, Second: &anchor.SecondStatus{}}
	w.intake.State = intake.StateOpen
	err := w.Watch(metrics.Sources{
		State:  func(context.Context) (metrics.State, error) { return w.state, w.stateErr },
		Engine: func() anchor.Status { return w.engine },
		Nodes:  func() anchor.NodesStatus { return w.nodes },
		Intake: func() intake.Status { return w.intake },
		Now:    func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(&w.logged, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// scrape is the page as Prometheus gets it.
func (w *world) scrape(t *testing.T) string {
	t.Helper()
	rec := httptest.NewRecorder()
	w.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// want looks for lines of the page.
func (w *world) want(t *testing.T, lines ...string) {
	t.Helper()
	page := w.scrape(t)
	have := strings.Split(page, "\n")
	for _, line := range lines {
		if !slices.Contains(have, line) {
			name, _, _ := strings.Cut(line, " ")
			name, _, _ = strings.Cut(name, "{")
			t.Errorf("no line %q; of that name there are:\n%s", line, strings.Join(slices.DeleteFunc(slices.Clone(have), func(l string) bool { return !strings.HasPrefix(l, name) }), "\n"))
		}
	}
}

// busy has everything happen once that is counted only when it happens.
func (w *world) busy() {
	w.state.EachCalendar = []metrics.CalendarState{{Address: "https://a.example", State: stamp.AlarmNone}}
	w.HTTP(metrics.APIListener)(api.Answered{Method: "GET", Route: "/v1/status", Status: 200, Took: time.Millisecond})
}

// family is one metric of the page.
type family struct{ Name, Type, Labels, Help string }

// families reads the page: the type and help of each metric, and the labels of its series.
func families(page string) (all []family) {
	labels := regexp.MustCompile(`([a-z_]+)="`)
	sample := regexp.MustCompile(`^(calpe_[a-z0-9_]+)(?:\{(.*)\})? `)
	for line := range strings.SplitSeq(page, "\n") {
		last := len(all) - 1
		if name, help, ok := strings.Cut(strings.TrimPrefix(line, "# HELP "), " "); ok && strings.HasPrefix(line, "# HELP calpe_") {
			all = append(all, family{Name: name, Help: help})
		} else if rest, ok := strings.CutPrefix(line, "# TYPE calpe_"); ok {
			_, all[last].Type, _ = strings.Cut(rest, " ")
		} else if m := sample.FindStringSubmatch(line); m != nil {
			var names []string
			for _, l := range labels.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "le" {
					names = append(names, "`"+l[1]+"`")
				}
			}
			all[last].Labels = strings.Join(names, ", ")
		}
	}
	return all
}

// docs/metrics.md says of each metric what the server says of it, and what to do.
func TestDocumented(t *testing.T) {
	w := newWorld(t)
	w.busy()
	got := families(w.scrape(t))
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []family
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 7 || !strings.HasPrefix(cells[1], " `calpe_") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[5] == "" {
			t.Errorf("%s: the page doesn't say what it is good for", cells[1])
		}
		documented = append(documented, family{strings.Trim(cells[1], "`"), cells[2], cells[3], cells[4]})
	}
	byName := func(a, b family) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(got, byName)
	slices.SortFunc(documented, byName)
	if diff := cmp.Diff(got, documented); diff != "" {
		t.Errorf("docs/metrics.md isn't what the server says (- server, + page):\n%s", diff)
	}
	if len(got) < 50 {
		t.Errorf("only %d metrics", len(got))
	}
}

// The names are as Prometheus wants them.
func TestLint(t *testing.T) {
	w := newWorld(t)
	w.busy()
	problems, err := promlint.New(strings.NewReader(w.scrape(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func block(height uint32, at time.Time) ledger.Block {
	b := ledger.Block{Height: height}
	s := uint32(at.Unix())
	b.Header[68], b.Header[69], b.Header[70], b.Header[71] = byte(s), byte(s>>8), byte(s>>16), byte(s>>24)
	return b
}

func TestState(t *testing.T) {
	w := newWorld(t)
	deposit := ledger.Coin{Output: ledger.Output{Value: 5000}, State: ledger.CoinLive}
	void := ledger.Coin{Output: ledger.Output{Value: 70_000}, State: ledger.CoinVoid}
	caps := wallet.Caps{FeeRate: 20 * ledger.SatPerVB, Fee: 20_000, Day: 100_000}
	coin := &ledger.Coin{Output: ledger.Output{Value: 100_000}}
	w.state = metrics.State{
		Marks:    calpe.Watermarks{Next: 50, Checkpointed: 40, Broadcast: 30, Confirmed: 20, Final: 10},
		Unsealed: now.Add(-3 * time.Second), Unanchored: now.Add(-2 * time.Hour),
		Chain: ledger.Snapshot{
			Tip: block(1000, now.Add(-10*time.Minute)), Live: coin, Deposits: []ledger.Coin{deposit, void},
			Attempts: []ledger.Attempt{{Tip: 990, Fee: 160, VSize: 160}, {Tip: 998, Fee: 400, VSize: 160, LastSent: now.Add(-time.Minute)}},
		},
		Funds: caps.Funds(coin, []ledger.Coin{deposit, void}, 2*ledger.SatPerVB), FundsState: wallet.FundsLow, Caps: caps,
		Spent: 1234, Anchors: 7, Fees: 2468, Calendars: stamp.AlarmStalled,
		EachCalendar: []metrics.CalendarState{{Address: "https://a.example", State: stamp.AlarmNone}, {Address: "https://b.example", State: stamp.AlarmSilent}},
	}
	w.want(t,
		`calpe_state_read_success 1`,
		`calpe_log_entries{state="received"} 50`, `calpe_log_entries{state="checkpointed"} 40`, `calpe_log_entries{state="broadcast"} 30`,
		`calpe_log_entries{state="confirmed"} 20`, `calpe_log_entries{state="final"} 10`,
		`calpe_oldest_unsealed_entry_seconds 3`, `calpe_oldest_unanchored_entry_seconds 7200`,
		`calpe_calendars_state{state="ok"} 0`, `calpe_calendars_state{state="silent"} 0`, `calpe_calendars_state{state="stalled"} 1`,
		`calpe_calendars_each_state{calendar="https://a.example",state="ok"} 1`, `calpe_calendars_each_state{calendar="https://a.example",state="silent"} 0`,
		`calpe_calendars_each_state{calendar="https://b.example",state="ok"} 0`, `calpe_calendars_each_state{calendar="https://b.example",state="silent"} 1`,
		`calpe_final_anchors_total 7`, `calpe_anchor_fees_satoshis_total 2468`, `calpe_anchor_day_fees_satoshis 1234`,
		`calpe_anchor_day_cap_satoshis 100000`, `calpe_anchor_fee_cap_satoshis 20000`, `calpe_anchor_fee_rate_cap_satoshis_per_vbyte 20`,
		`calpe_anchor_attempts 2`, `calpe_anchor_attempt_fee_rate_satoshis_per_vbyte 2.5`, `calpe_anchor_attempt_blocks 2`,
		`calpe_anchor_attempt_sent_seconds 60`, `calpe_anchor_waiting_blocks 10`,
		`calpe_balance_satoshis{kind="coin"} 100000`, `calpe_balance_satoshis{kind="deposits"} 5000`, `calpe_deposits 1`,
		fmt.Sprintf(`calpe_anchors_left{rate="present"} %d`, w.state.Funds.Left), fmt.Sprintf(`calpe_anchors_left{rate="cap"} %d`, w.state.Funds.LeftAtCap),
		`calpe_funds_state{state="low"} 1`, `calpe_funds_state{state="ample"} 0`, `calpe_funds_state{state="out"} 0`,
		`calpe_foreign_spend 0`, `calpe_followed_height_blocks 1000`, `calpe_followed_tip_age_seconds 600`,
	)

	w.state = metrics.State{Chain: ledger.Snapshot{Tip: block(5, now), Foreign: &ledger.Coin{}}}
	w.want(t,
		`calpe_oldest_unanchored_entry_seconds 0`, `calpe_foreign_spend 1`, `calpe_anchor_attempts 0`, `calpe_anchor_attempt_blocks 0`,
		`calpe_anchor_waiting_blocks 0`, `calpe_anchor_attempt_fee_rate_satoshis_per_vbyte 0`, `calpe_balance_satoshis{kind="coin"} 0`,
	)
}

// Without the database what the process knows is still told.
func TestDatabaseDown(t *testing.T) {
	w := newWorld(t)
	w.stateErr = errors.New("no route to host")
	w.want(t, `calpe_state_read_success 0`, `calpe_intake_state{state="open"} 1`)
	if page := w.scrape(t); strings.Contains(page, "calpe_log_entries") {
		t.Error("the page has what wasn't read")
	}
	if !strings.Contains(w.logged.String(), "no route to host") {
		t.Errorf("the log doesn't say why:\n%s", w.logged.String())
	}
}

func TestEngineAndNodes(t *testing.T) {
	w := newWorld(t)
	w.want(t, `calpe_anchor_step_timestamp_seconds 0`, `calpe_anchor_step_failing{cause="foreign-spend"} 0`, `calpe_anchor_limit{limit="day"} 0`)
	w.engine = anchor.Status{Time: now, Limit: anchor.LimitDay, Err: errors.Join(fmt.Errorf("x: %w", anchor.ErrForeignSpend), anchor.ErrNodesDisagree)}
	w.nodes = anchor.NodesStatus{
		Time: now, Height: 100, Tip: now.Add(-time.Hour), Estimate: 1500, Lags: true,
		Second: &anchor.SecondStatus{Height: 107, Disagree: true},
	}
	w.intake = intake.Status{State: intake.StateHalted, Queued: 12}
	w.want(t, `calpe_anchor_step_failing{cause="foreign-spend"} 0`, `calpe_anchor_limit{limit="day"} 0`) // another server leads
	defer w.Lead("anchor")()
	w.want(t,
		fmt.Sprintf("calpe_anchor_step_timestamp_seconds %v", "1.7952534e+09"),
		`calpe_anchor_step_failing{cause="foreign-spend"} 1`, `calpe_anchor_step_failing{cause="nodes-disagree"} 1`, `calpe_anchor_step_failing{cause="other"} 0`,
		`calpe_anchor_limit{limit="day"} 1`, `calpe_anchor_limit{limit="funds"} 0`,
		`calpe_bitcoin_up{node="first"} 1`, `calpe_bitcoin_up{node="second"} 1`, `calpe_bitcoin_height_blocks{node="second"} 107`,
		`calpe_bitcoin_behind_second_blocks 7`, `calpe_bitcoin_nodes_disagree 1`, `calpe_bitcoin_lags{node="first"} 1`,
		`calpe_bitcoin_tip_age_seconds 3600`, `calpe_bitcoin_estimate_satoshis_per_vbyte 1.5`,
		`calpe_intake_state{state="halted"} 1`, `calpe_intake_state{state="open"} 0`, `calpe_intake_queue_length 12`,
	)
	w.nodes = anchor.NodesStatus{}
	w.want(t, `calpe_bitcoin_up{node="first"} 0`, `calpe_bitcoin_behind_second_blocks 0`, `calpe_bitcoin_nodes_disagree 0`)
	if strings.Contains(w.scrape(t), `calpe_bitcoin_up{node="second"}`) {
		t.Error("there is no second node, and the page has one")
	}
}

// fakes of the parts that are counted.
type groups struct {
	intake.Groups
	err error
}

func (g groups) CommitGroup(context.Context, calpe.Group) (calpe.GroupResult, error) {
	return calpe.GroupResult{Count: 3}, g.err
}

type uploads struct {
	api.Intake
	existing bool
	err      error
}

func (u uploads) Upload(_ context.Context, up intake.Upload) (intake.Uploaded, error) {
	if up.Body != nil {
		_, _ = io.Copy(io.Discard, up.Body)
	}
	return intake.Uploaded{Existing: u.existing}, u.err
}

func (u uploads) Commit(context.Context, intake.Commitments) (intake.Recorded, error) {
	return intake.Recorded{Existing: u.existing}, u.err
}

type signs struct {
	anchor.Signer
	err error
}

func (s signs) Sign(context.Context, []byte, []ledger.Input) ([]byte, error) { return nil, s.err }

func TestCounters(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	_, _ = w.Groups(groups{}).CommitGroup(ctx, calpe.Group{})
	_, _ = w.Groups(groups{}).CommitGroup(ctx, calpe.Group{})
	if _, err := w.Groups(groups{err: calpe.ErrFence}).CommitGroup(ctx, calpe.Group{}); !errors.Is(err, calpe.ErrFence) {
		t.Errorf("the error was swallowed: %v", err)
	}
	for _, u := range []uploads{{}, {existing: true}, {err: calpe.Errorf(calpe.CodeIntakeStopped, "no")}, {err: errors.New("x")}} {
		_, _ = w.Intake(u).Upload(ctx, intake.Upload{Body: strings.NewReader("seven b")})
		_, _ = w.Intake(u).Upload(ctx, intake.Upload{})
		_, _ = w.Intake(u).Commit(ctx, intake.Commitments{})
		_, _ = w.Stamps(u).Commit(ctx, intake.Commitments{Commitments: make([]calpe.Commitment, 5)})
	}
	for _, err := range []error{
		nil, fmt.Errorf("%w: %w", wallet.ErrPolicy, signer.ErrBudget), fmt.Errorf("x: %w", signer.ErrHistory), fmt.Errorf("%w: x", signer.ErrChain), signer.ErrState, wallet.ErrCap, wallet.ErrPolicy, errors.New("x"),
	} {
		_, _ = w.Signer(signs{err: err}).Sign(ctx, nil, nil)
	}
	w.Sealed(64, 20*time.Millisecond)
	for _, depth := range []uint32{1, 2, 3, 5, 6, 100} {
		w.Reorganised(depth)
	}
	w.Postgres(postgres.OperationQuery, postgres.OutcomeConnection, time.Second)
	w.S3("PUT", s3.OutcomeNoAnswer, time.Second)
	first := w.BitcoinCall(metrics.FirstNode)
	for _, err := range []error{
		nil, bitcoin.ErrUnavailable, bitcoin.ErrWarmingUp, bitcoin.ErrUnauthorized, bitcoin.ErrInvalidBlock,
		&bitcoin.RPCError{}, fmt.Errorf("%w: %w", bitcoin.ErrUnavailable, context.Canceled), errors.New("x"),
	} {
		first("getblockcount", time.Millisecond, err)
	}
	end := w.Lead("anchor")
	w.want(t, `calpe_leader{role="anchor"} 1`, `calpe_leader{role="batch"} 0`)
	end()
	w.want(t,
		`calpe_leader{role="anchor"} 0`, `calpe_build_info{version="calped v1.2.3"} 1`,
		`calpe_intake_groups_total 2`, `calpe_intake_entries_total 6`, `calpe_intake_commit_errors_total 1`, `calpe_intake_commit_duration_seconds_count 2`,
		`calpe_intake_group_entries_sum 6`,
		`calpe_intake_submissions_total{kind="document",result="recorded"} 2`, `calpe_intake_submissions_total{kind="document",result="existing"} 2`,
		`calpe_intake_submissions_total{kind="document",result="intake-stopped"} 2`, `calpe_intake_submissions_total{kind="document",result="internal"} 2`,
		`calpe_intake_submissions_total{kind="commitments",result="recorded"} 1`, `calpe_upload_bytes_total 28`,
		`calpe_calendar_stamps_total{result="recorded"} 10`, `calpe_calendar_stamps_total{result="failed"} 10`,
		`calpe_signer_signatures_total 1`, `calpe_signer_refusals_total{reason="budget"} 1`, `calpe_signer_refusals_total{reason="history"} 1`, `calpe_signer_refusals_total{reason="chain"} 1`,
		`calpe_signer_refusals_total{reason="state"} 1`, `calpe_signer_refusals_total{reason="cap"} 1`, `calpe_signer_refusals_total{reason="policy"} 1`,
		`calpe_signer_refusals_total{reason="other"} 1`,
		`calpe_seal_entries_sum 64`, `calpe_seal_duration_seconds_count 1`,
		`calpe_bitcoin_reorganisations_total{depth="1"} 1`, `calpe_bitcoin_reorganisations_total{depth="2"} 1`,
		`calpe_bitcoin_reorganisations_total{depth="3-5"} 2`, `calpe_bitcoin_reorganisations_total{depth="6+"} 2`, `calpe_bitcoin_reorganisation_depth_blocks 100`,
		`calpe_postgres_operations_total{operation="query",outcome="connection"} 1`, `calpe_s3_requests_total{method="PUT",outcome="no-answer"} 1`,
		`calpe_bitcoin_call_duration_seconds_count{method="getblockcount",node="first"} 8`,
		`calpe_bitcoin_call_errors_total{kind="unavailable",node="first"} 1`, `calpe_bitcoin_call_errors_total{kind="warming-up",node="first"} 1`,
		`calpe_bitcoin_call_errors_total{kind="unauthorized",node="first"} 1`, `calpe_bitcoin_call_errors_total{kind="invalid",node="first"} 1`,
		`calpe_bitcoin_call_errors_total{kind="refused",node="first"} 1`, `calpe_bitcoin_call_errors_total{kind="cancelled",node="first"} 1`,
		`calpe_bitcoin_call_errors_total{kind="other",node="first"} 1`, `calpe_bitcoin_call_errors_total{kind="unavailable",node="second"} 0`,
	)
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	tell := w.HTTP(metrics.APIListener)
	for status, count := range map[int]int{200: 3, 204: 1, 404: 2, 503: 1, 0: 1} {
		for range count {
			tell(api.Answered{Method: "GET", Route: "/v1/entries/{index}", Status: status, Took: time.Millisecond})
		}
	}
	tell(api.Answered{Method: "GET", Route: "/v1/entries/{index}/events", Status: 200, Took: time.Hour})
	const series = `calpe_http_requests_total{class="%s",listener="api",method="GET",route="/v1/entries/{index}"} %d`
	w.want(t, fmt.Sprintf(series, "2xx", 4), fmt.Sprintf(series, "4xx", 2), fmt.Sprintf(series, "5xx", 1), fmt.Sprintf(series, "none", 1),
		`calpe_http_request_duration_seconds_count{listener="api",route="/v1/entries/{index}"} 8`)
	if strings.Contains(w.scrape(t), `duration_seconds_count{listener="api",route="/v1/entries/{index}/events"}`) {
		t.Error("a stream of an hour counts as a slow request")
	}
}

// Nothing but GET /metrics is answered, and two servers in a process don't meet.
func TestHandler(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	other.Sealed(1, time.Second)
	w.want(t, `calpe_seal_entries_count 0`)
	h := w.Handler(slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/", 404}, {"POST", "/metrics", 405}, {"GET", "/debug/pprof/", 404}, {"HEAD", "/metrics", 200}} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, nil))
		if rec.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, rec.Code, c.want)
		}
	}
	if err := metrics.New("v").Watch(metrics.Sources{}); err == nil {
		t.Error("metrics without sources were taken")
	}
	if err := w.Watch(metrics.Sources{}); err == nil {
		t.Error("sources were taken twice")
	}
}
