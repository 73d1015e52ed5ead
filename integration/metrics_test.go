package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/porttest"
)

// serveMetrics starts a server that shows metrics, and gives the address of the page.
func (d *deployment) serveMetrics() (*server, string) {
	d.t.Helper()
	s := d.serve(porttest.Address(d.t), map[string]string{"CALPE_METRICS_LISTEN": "127.0.0.1:0"})
	s.awaitReady()
	return s, s.metricsPage()
}

// metricsPage is where a server that is ready shows metrics: its log says so.
func (s *server) metricsPage() string {
	s.d.t.Helper()
	f, err := os.Open(s.log)
	if err != nil {
		s.d.t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving metrics" {
			return "http://" + line.Address + "/metrics"
		}
	}
	s.d.t.Fatalf("the log doesn't say where the metrics are: %v", lines.Err())
	return ""
}

// series are the values of a scrape, by name and labels as the page has them.
type series map[string]float64

func (d *deployment) scrape(ctx context.Context, page string) (series, string, error) {
	status, body, err := d.get(ctx, page, "")
	if err != nil {
		return nil, "", err
	}
	if status != http.StatusOK {
		return nil, "", fmt.Errorf("GET %s: %d %s", page, status, body)
	}
	all := series{}
	for line := range strings.SplitSeq(string(body), "\n") {
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		if all[line[:at]], err = strconv.ParseFloat(line[at+1:], 64); err != nil {
			return nil, "", fmt.Errorf("line %q: %w", line, err)
		}
	}
	return all, string(body), nil
}

// awaitSeries waits until the page has these values.
func (d *deployment) awaitSeries(page, what string, holds func(series) bool) (got series) {
	d.t.Helper()
	eventually(d.t, what, func(ctx context.Context) (err error) {
		if got, _, err = d.scrape(ctx, page); err == nil && !holds(got) {
			err = errors.New("not yet")
		}
		return err
	})
	return got
}

// TestMetrics scrapes a server while entries go through all their states, and looks
// for every metric that docs/metrics.md promises.
func TestMetrics(t *testing.T) {
	d := deploy(t)
	s, page := d.serveMetrics()
	_, secondPage := d.serveMetrics()
	const size = 5000
	got := s.takes(newRequestOf(documentKind, 1, size))
	if status, body, err := d.get(t.Context(), s.url+"/metrics", ""); err != nil || status != http.StatusNotFound {
		t.Errorf("metrics on the public listener: %d %s %v", status, body, err)
	}

	waiting := d.awaitSeries(page, "an attempt is out", func(m series) bool {
		return m[`calpe_log_entries{state="broadcast"}`] > 0 && m["calpe_anchor_attempts"] == 1
	})
	if waiting[`calpe_log_entries{state="confirmed"}`] != 0 || waiting["calpe_oldest_unanchored_entry_seconds"] <= 0 ||
		waiting["calpe_anchor_fees_satoshis_total"] != 0 || waiting["calpe_anchor_attempt_fee_rate_satoshis_per_vbyte"] < 1 {
		t.Errorf("no block was made, and the page says %v", waiting)
	}
	before := waiting[`calpe_balance_satoshis{kind="coin"}`]
	stop := d.node.keepMining(300 * time.Millisecond)
	s.awaitFinal(got.index + 1)
	stop()
	done := d.awaitSeries(page, "the anchor is paid for", func(m series) bool {
		return m["calpe_final_anchors_total"] >= 1 && m["calpe_oldest_unanchored_entry_seconds"] == 0 &&
			m[`calpe_bitcoin_height_blocks{node="first"}`] > waiting[`calpe_bitcoin_height_blocks{node="first"}`]
	})
	if fees := done["calpe_anchor_fees_satoshis_total"]; fees <= 0 || done[`calpe_balance_satoshis{kind="coin"}`] > before-fees {
		t.Errorf("fees of %v sat, and the balance went from %v to %v", fees, before, done[`calpe_balance_satoshis{kind="coin"}`])
	}
	for name, want := range map[string]float64{
		"calpe_upload_bytes_total": size, `calpe_intake_submissions_total{kind="document",result="recorded"}`: 1,
		`calpe_http_requests_total{class="2xx",listener="api",method="POST",route="/v1/documents"}`: 1,
		`calpe_http_requests_total{class="4xx",listener="api",method="GET",route="none"}`:           1,
		"calpe_intake_entries_total": 1, `calpe_intake_state{state="open"}`: 1, "calpe_state_read_success": 1, `calpe_bitcoin_up{node="first"}`: 1,
		"calpe_foreign_spend": 0, `calpe_funds_state{state="ample"}`: 1,
	} {
		if done[name] != want {
			t.Errorf("%s is %v, want %v", name, done[name], want)
		}
	}
	for _, name := range []string{
		"calpe_intake_commit_duration_seconds_count", `calpe_postgres_operations_total{operation="query",outcome="ok"}`,
		`calpe_s3_requests_total{method="PUT",outcome="ok"}`, `calpe_bitcoin_call_duration_seconds_count{method="getblock",node="first"}`,
	} {
		if done[name] <= 0 {
			t.Errorf("%s is %v", name, done[name])
		}
	}
	d.checkPromised(page)
	d.checkSecond(page, secondPage)
	s.exitsCleanly()
}

// checkPromised looks for every documented metric, and for what must not be on the page.
func (d *deployment) checkPromised(page string) {
	d.t.Helper()
	_, text, err := d.scrape(d.t.Context(), page)
	if err != nil {
		d.t.Fatal(err)
	}
	docs, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		d.t.Fatal(err)
	}
	promised := regexp.MustCompile("(?m)^\\| `(calpe_[a-z0-9_]+)` \\| ([a-z]+) ").FindAllSubmatch(docs, -1)
	if len(promised) < 50 {
		d.t.Fatalf("docs/metrics.md lists %d metrics", len(promised))
	}
	for _, m := range promised {
		// One series a calendar, and this log has none.
		want := string(m[1]) != "calpe_calendars_each_state"
		if strings.Contains(text, fmt.Sprintf("\n# TYPE %s %s\n", m[1], m[2])) != want {
			d.t.Errorf("%s %s is documented; want it on the page: %v", m[2], m[1], want)
		}
	}
	for what, secret := range map[string]string{
		"token": d.token, "owner": "citizen", "address": strings.TrimSpace(d.must("wallet", "address")), "origin": testOrigin,
		"password": d.env["CALPE_BITCOIN_PASSWORD"], "secret key": d.env["CALPE_S3_SECRET_KEY"],
	} {
		if strings.Contains(text, secret) {
			d.t.Errorf("the page holds the %s %q", what, secret)
		}
	}
}

// checkSecond compares two servers of one log: what is the log's is the same, and
// one of them leads.
func (d *deployment) checkSecond(page, secondPage string) {
	d.t.Helper()
	a, _, errA := d.scrape(d.t.Context(), page)
	b, _, errB := d.scrape(d.t.Context(), secondPage)
	if err := errors.Join(errA, errB); err != nil {
		d.t.Fatal(err)
	}
	for _, name := range []string{`calpe_log_entries{state="final"}`, "calpe_final_anchors_total", "calpe_anchor_fees_satoshis_total", `calpe_balance_satoshis{kind="coin"}`} {
		if a[name] != b[name] {
			d.t.Errorf("%s is %v and %v on two servers of one log", name, a[name], b[name])
		}
	}
	for _, role := range []string{"batch", "anchor"} {
		name := fmt.Sprintf("calpe_leader{role=%q}", role)
		if a[name]+b[name] != 1 {
			d.t.Errorf("%s is %v and %v", name, a[name], b[name])
		}
	}
}
