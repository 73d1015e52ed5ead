package integration

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// byCalendars makes a deployment beside d whose log has no coins and no wallet:
// those calendars anchor it. Its settings name no Bitcoin node.
func (d *deployment) byCalendars(calendars ...string) *deployment {
	t := d.t
	t.Helper()
	e := &deployment{t: t, dir: t.TempDir(), bin: d.bin, http: d.http, node: d.node}
	t.Cleanup(e.epilogue)
	e.db = startDatabase(t, e.dir)
	unique := make([]byte, 6)
	rand.Read(unique)
	e.env = maps.Clone(d.env)
	maps.DeleteFunc(e.env, func(name, _ string) bool { return strings.HasPrefix(name, "CALPE_BITCOIN") })
	maps.Copy(e.env, map[string]string{
		"CALPE_DATABASE_URL":        e.db.info.URL,
		"CALPE_S3_DOCUMENTS_BUCKET": "documents-" + hex.EncodeToString(unique),
		"CALPE_S3_LOG_BUCKET":       "log-" + hex.EncodeToString(unique),
		"CALPE_KEYS":                filepath.Join(e.dir, "keys"),
		"CALPE_ANCHOR":              "calendars",
		"CALPE_STAMP_CALENDARS":     strings.Join(calendars, ","),
		"CALPE_STAMP_ASK":           "1s",
	})
	e.must("migrate")
	e.must("init", "--origin", "altea.example/log")
	e.must("log", "create", "--create-buckets")
	t.Cleanup(e.removeBuckets)
	e.token = strings.TrimSpace(e.must("token", "create", "--owner", "citizen"))
	var err error
	if e.identity, err = receipt.ParseIdentity([]byte(e.must("log", "show"))); err != nil {
		t.Fatal(err)
	}
	if e.identity.FirstOutpoint != nil {
		t.Errorf("the identity names the coin %s", e.identity.FirstOutpoint)
	}
	if e.agency, err = statement.GenerateKey(rand.Reader, testAgency); err != nil {
		t.Fatal(err)
	}
	e.must("agency", "add", "--id", testAgency, "--name", "Registry Office", "--key", e.agency.Verifier())
	return e
}

// nodeSettings are those of d's Bitcoin node.
func (d *deployment) nodeSettings() map[string]string {
	settings := maps.Clone(d.env)
	maps.DeleteFunc(settings, func(name, _ string) bool { return !strings.HasPrefix(name, "CALPE_BITCOIN_") })
	return settings
}

// TestAnchoredByCalendars: a log without coins is anchored by our own calendar,
// while another one is dead. It is killed between all of its steps; then it goes
// on without a Bitcoin node, with a file of headers, until its receipts are final
// and verify offline.
func TestAnchoredByCalendars(t *testing.T) {
	d := deploy(t)
	upstream, uri := d.serveCalendar(nil)
	defer d.node.keepMining(400 * time.Millisecond)()
	e := d.byCalendars(uri, "http://"+porttest.Address(t))
	address := porttest.Address(t)
	var acks []acknowledged
	for i, point := range []commitpoint.Point{
		commitpoint.ProofWanted, commitpoint.ProofSubmitted, commitpoint.ProofPromised,
		commitpoint.ProofAnswered, commitpoint.ProofConfirmed, commitpoint.ProofFinal,
	} {
		s := e.serve(address, d.nodeSettings())
		s.awaitReady()
		acks = append(acks, s.takes(newRequestOf(documentKind, uint64(i), 2000)))
		s.kill()
		c := crash{point, 1}
		settings := d.nodeSettings()
		maps.Copy(settings, c.setting())
		e.serve(address, settings).dies(c)
	}
	e.refusesOtherAnchors()

	c := &citizen{d: e, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": "http://" + address, "CALPE_TOKEN": e.token}}
	c.fetchHeaders()
	s, own := e.serveCalendar(map[string]string{"CALPE_STAMP_HEADERS": c.path("headers.bin")})
	c.env["CALPE_SERVER"] = s.url
	c.write("identity.json", []byte(c.exits(0, "identity")))
	c.env["CALPE_IDENTITY"] = "identity.json"
	c.write("deed.txt", []byte("anchored by calendars\n"))
	c.exits(0, "upload", "deed.txt")
	c.write("note.txt", []byte("stamped with a calendar behind a calendar\n"))
	c.exits(0, "ots", "stamp", "--calendar", own, "note.txt")
	s.becomesFinal(c)
	c.exits(0, "ots", "upgrade", "--calendar", own, "--headers", "headers.bin", "note.txt.ots")
	c.exits(0, "audit", "--identity", "identity.json", "--dir", "mirror")
	if out, errs, code := e.calped(nil, "fsck"); code != 0 {
		t.Errorf("fsck: exit code %d\n%s%s", code, out, errs)
	}
	c.exits(0, "receipt", "--wait", "final", "--timeout", patience.String(), "deed.txt.receipt.json")
	c.exits(0, "ots", "export", "-o", "deed.txt.ots", "deed.txt.receipt.json")
	if string(c.otsOf("deed.txt")) != string(c.read("deed.txt.ots")) {
		t.Error("the service and calpe write another .ots file of one receipt")
	}
	s.holdReceipts(acks)
	s.exitsCleanly()
	upstream.exitsCleanly()
	d.byBoth()
	c.exits(1, "verify", "--depth", "3", "--headers", "headers.bin", "identity.json", "deed.txt.receipt.json")
	c.reports(0, [3]receipt.Status{holds, holds, notAsked}, receipt.ReasonNoCertification, "deed.txt", "deed.txt.receipt.json")
	for _, name := range []string{"deed.txt", "note.txt"} {
		if status, block := c.otsReport(name, 0); status != holds || block == "" {
			t.Errorf("%s.ots: %s, %q", name, status, block)
		}
	}
}

// byBoth: calendars beside a chain of coins don't hold it up, even if they are dead.
func (d *deployment) byBoth() {
	t := d.t
	t.Helper()
	dead := [...]string{"http://" + porttest.Address(t), "http://" + porttest.Address(t)}
	s := d.serve(porttest.Address(t), map[string]string{
		"CALPE_ANCHOR": "both", "CALPE_STAMP_CALENDARS": strings.Join(dead[:], ","), "CALPE_STAMP_SILENCE": "1", "CALPE_METRICS_LISTEN": "127.0.0.1:0",
	})
	s.awaitReady()
	a := s.takes(newRequestOf(documentKind, 100, 2000))
	s.awaitFinal(a.index + 1)
	r, err := s.fetchReceipt(t.Context(), a)
	if err != nil || r.Anchor == nil || d.verify(a, r, d.node.headers()) != nil {
		t.Errorf("receipt: %+v, %v", r, err)
	}
	eventually(t, "the alarm is in the status", func(ctx context.Context) error {
		var got struct {
			Funds     string
			Calendars struct{ State string }
		}
		err := d.getJSON(ctx, s.url+"/v1/status", &got)
		if err == nil && (got.Funds != "ample" || got.Calendars.State != "silent") {
			err = fmt.Errorf("status is %+v", got)
		}
		return err
	})
	page := s.metricsPage()
	eventually(t, "the metrics name each dead calendar", func(ctx context.Context) error {
		values, _, err := d.scrape(ctx, page)
		for _, uri := range dead {
			if name := fmt.Sprintf("calpe_calendars_each_state{calendar=%q,state=\"silent\"}", uri); err == nil && values[name] != 1 {
				err = fmt.Errorf("%s is %v", name, values[name])
			}
		}
		return err
	})
	s.exitsCleanly()
}

// refusesOtherAnchors: how a log is anchored is in its identity.
func (d *deployment) refusesOtherAnchors() {
	d.t.Helper()
	for settings, words := range map[[2]string]string{
		{"CALPE_ANCHOR", "bitcoin"}:                          "set CALPE_ANCHOR=calendars",
		{"CALPE_STAMP_CALENDARS", "https://a.example"}:       "give two or more",
		{"CALPE_STAMP_HEADERS", d.dir + "/there-is-no-file"}: "CALPE_STAMP_HEADERS",
	} {
		if out, errs, code := d.calped(map[string]string{settings[0]: settings[1]}, "doctor"); code == 0 || !strings.Contains(out+errs, words) {
			d.t.Errorf("%v: exit code %d, want %q:\n%s%s", settings, code, words, out, errs)
		}
	}
}

// becomesFinal waits until the whole log is final, while the file of headers that
// the server reads is kept new.
func (s *server) becomesFinal(c *citizen) {
	t := s.d.t
	t.Helper()
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		status
		Funds     *string
		Calendars struct {
			State    string
			Compared string `json:"compared_with"`
			Led      uint64
		}
	}
	eventually(t, "entries are final", func(ctx context.Context) error {
		c.fetchHeaders()
		err := s.d.getJSON(ctx, s.url+"/v1/status", &got)
		if err == nil && got.Final < st.Next {
			err = fmt.Errorf("want %d entries final: %+v", st.Next, got)
		}
		return err
	})
	if cal := got.Calendars; cal.State != "ok" || cal.Compared != "file" || cal.Led < st.Next || got.Funds != nil {
		t.Errorf("status of a log that calendars anchor: %+v", got)
	}
}

// holdReceipts: every acknowledged document has a receipt with a timestamp that
// verifies with the node's headers.
func (s *server) holdReceipts(acks []acknowledged) {
	t := s.d.t
	t.Helper()
	chain := s.d.node.headers()
	for _, a := range acks {
		r, err := s.fetchReceipt(t.Context(), a)
		if err == nil && (r.Timestamp == nil || r.Anchor != nil) {
			err = fmt.Errorf("it has the timestamp %v and the anchor %v", r.Timestamp, r.Anchor)
		}
		if err == nil {
			err = s.d.verify(a, r, chain)
		}
		if err != nil {
			t.Errorf("receipt of entry %d: %v", a.index, err)
		}
	}
}
