package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
)

// citizen runs calpe in a folder of one's own, with nothing of the service but
// its address.
type citizen struct {
	d   *deployment
	dir string
	env map[string]string
}

// calpe runs the program to its end.
func (c *citizen) calpe(extra map[string]string, args ...string) (stdout, stderr string, code int) {
	t := c.d.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	all := maps.Clone(c.env)
	maps.Copy(all, extra)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	cmd := exec.CommandContext(ctx, c.d.bin.calpe, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, env, &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("calpe %v: %v, %v\n%s", args, err, ctx.Err(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// exits runs calpe and compares the exit code.
func (c *citizen) exits(want int, args ...string) string {
	c.d.t.Helper()
	out, errs, code := c.calpe(nil, args...)
	if code != want {
		c.d.t.Errorf("calpe %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out
}

// reports runs calpe verify and compares exit code, verdicts and reason.
func (c *citizen) reports(want int, verdicts [3]receipt.Status, reason receipt.Reason, args ...string) {
	t := c.d.t
	t.Helper()
	out := c.exits(want, append([]string{"verify", "--json", "--depth", "3", "--headers", "headers.bin"}, args...)...)
	type verdict struct {
		Status receipt.Status `json:"status"`
		Reason receipt.Reason `json:"reason"`
	}
	var answer struct {
		Report struct {
			Existed   verdict `json:"existed"`
			InLog     verdict `json:"in_log"`
			Certified verdict `json:"certified"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Errorf("calpe verify %v: %v: %s", args, err, out)
		return
	}
	r := answer.Report
	if got := [3]receipt.Status{r.Existed.Status, r.InLog.Status, r.Certified.Status}; got != verdicts {
		t.Errorf("calpe verify %v: %v, want %v: %s", args, got, verdicts, out)
	}
	if reason != "" && r.Existed.Reason != reason && r.InLog.Reason != reason && r.Certified.Reason != reason {
		t.Errorf("calpe verify %v: reason %s isn't given: %s", args, reason, out)
	}
}

func (c *citizen) path(name string) string { return filepath.Join(c.dir, name) }

func (c *citizen) write(name string, content []byte) {
	c.d.t.Helper()
	if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
		c.d.t.Fatal(err)
	}
}

func (c *citizen) read(name string) []byte {
	c.d.t.Helper()
	content, err := os.ReadFile(c.path(name))
	if err != nil {
		c.d.t.Fatal(err)
	}
	return content
}

// TestEndToEndCLI goes the way of an agency and a citizen with the built
// programs, up to receipts that verify offline and forgeries that don't.
func TestEndToEndCLI(t *testing.T) {
	d := deploy(t)
	stopMining := d.node.keepMining(600 * time.Millisecond)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	c := &citizen{d: d, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": s.url, "CALPE_TOKEN": d.token}}
	c.write("identity.json", []byte(c.exits(0, "identity")))
	c.env["CALPE_IDENTITY"] = "identity.json"
	c.certify()
	c.notarize()
	s.exitsCleanly() // from here on there is no service
	c.fetchHeaders()
	stopMining()
	c.verify()
	c.refute()
}

// certify: the agency makes its key, the operator registers it, the agency
// certifies.
func (c *citizen) certify() {
	key := strings.TrimSpace(c.exits(0, "keygen", "town-hall"))
	c.d.must("agency", "add", "--id", "town-hall", "--name", "Town Hall", "--key", key)
	c.write("deed.pdf", newRequestOf(documentKind, 1, 120_000).content())
	c.exits(0, "certify", "--agency", "town-hall", "--key", "town-hall.key", "--type", "deed", "--subject", "lot 7", "--issued", "2026-11-02", "deed.pdf")
}

// notarize uploads and stamps, and waits until all is final.
func (c *citizen) notarize() {
	t := c.d.t
	t.Helper()
	c.exits(0, "upload", "--certification", "deed.pdf.certification.json", "--wait", "final", "--timeout", patience.String(), "deed.pdf")
	c.write("large.bin", newRequestOf(documentKind, 2, 18<<20).content())
	c.write("note.txt", []byte("a tiny text\n"))
	c.exits(0, "upload", "large.bin", "note.txt")
	c.write("secret.txt", []byte("never leaves this machine\n"))
	c.exits(0, "stamp", "secret.txt")
	early := c.read("note.txt.receipt.json")
	c.write("early.json", early)
	c.exits(0, "receipt", "--wait", "final", "--timeout", patience.String(), "large.bin.receipt.json", "note.txt.receipt.json", "secret.txt.receipt.json")
	if bytes.Equal(early, c.read("note.txt.receipt.json")) {
		t.Error("the receipt is the same as before it was final")
	}

	// Again: it is recorded already, and nothing is recorded twice.
	before := c.d.footprint(c.d.connect())
	c.exits(0, "upload", "deed.pdf", "note.txt")
	if after := c.d.footprint(c.d.connect()); after != before {
		t.Errorf("a repeated upload left something: %+v, before %+v", after, before)
	}
	c.write("other.txt", []byte("x"))
	if _, errs, code := c.calpe(map[string]string{"CALPE_TOKEN": "calpe_wrong"}, "upload", "other.txt"); code != 2 || !strings.Contains(errs, "token") {
		t.Errorf("a wrong token: exit code %d: %s", code, errs)
	}
}

func (c *citizen) fetchHeaders() {
	password, _ := c.d.node.user.Password()
	c.exits(0, "headers", "--node", c.d.node.url.String(), "--rpc-user", c.d.node.user.Username(), "--rpc-password", password,
		"--network", "regtest", "headers.bin")
}

const (
	holds    = receipt.Holds
	refuted  = receipt.Refuted
	notAsked = receipt.NotAsked
)

func (c *citizen) verify() {
	t := c.d.t
	t.Helper()
	c.reports(0, [3]receipt.Status{holds, holds, holds}, "", "deed.pdf", "deed.pdf.receipt.json")
	for _, name := range []string{"large.bin", "note.txt", "secret.txt"} {
		c.reports(0, [3]receipt.Status{holds, holds, notAsked}, receipt.ReasonNoCertification, name, name+".receipt.json")
	}
	out := c.exits(0, "verify", "--depth", "3", "--headers", "headers.bin", "deed.pdf", "deed.pdf.receipt.json")
	for _, words := range []string{"no evidential value", "Town Hall"} {
		if !strings.Contains(out, words) {
			t.Errorf("%q isn't in the report:\n%s", words, out)
		}
	}
	c.exits(3, "verify", "--depth", "3", "--headers", "headers.bin", "note.txt", "early.json")
	pinned := c.env["CALPE_IDENTITY"]
	delete(c.env, "CALPE_IDENTITY")
	out = c.exits(0, "verify", "--depth", "3", "--headers", "headers.bin", "note.txt", "note.txt.receipt.json")
	if !strings.Contains(out, "issuer unknown") {
		t.Errorf("without a pinned identity the report doesn't say so:\n%s", out)
	}
	c.env["CALPE_IDENTITY"] = pinned
	c.exits(2, "verify", "--headers", "headers.bin", "note.txt", "nowhere.json")
	c.exits(2, "verify", "note.txt", "note.txt.receipt.json")
}

// refute: everything that was changed is found out.
func (c *citizen) refute() {
	t := c.d.t
	t.Helper()
	changed := c.read("deed.pdf")
	changed[1000] ^= 1
	c.write("changed.pdf", changed)
	c.reports(1, [3]receipt.Status{refuted, refuted, refuted}, receipt.ReasonOtherDocument, "changed.pdf", "deed.pdf.receipt.json")

	var r map[string]any
	if err := json.Unmarshal(c.read("note.txt.receipt.json"), &r); err != nil {
		t.Fatal(err)
	}
	salt := r["salt"].(string)
	r["salt"] = strings.Repeat("0", len(salt))
	forged, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c.write("forged.json", forged)
	c.reports(1, [3]receipt.Status{refuted, refuted, notAsked}, receipt.ReasonNotInTree, "note.txt", "forged.json")
	c.write("broken.json", forged[:len(forged)/2])
	c.exits(2, "verify", "--headers", "headers.bin", "note.txt", "broken.json")

	headers := c.read("headers.bin")
	headers[80*50+40] ^= 1
	c.write("other-headers.bin", headers)
	c.exits(2, "verify", "--headers", "other-headers.bin", "note.txt", "note.txt.receipt.json")

	// Another deployment with the same name: its keys are others.
	other := c.d.identity
	others := filepath.Join(c.dir, "other-keys")
	if _, errs, code := c.d.calped(map[string]string{"CALPE_KEYS": others}, "init", "--origin", testOrigin); code != 0 {
		t.Fatal(errs)
	}
	other.CheckpointKeys, other.AcknowledgementKeys, other.StatementKeys = verifierOf(t, others, "checkpoint.key"),
		verifierOf(t, others, "acknowledgement.key"), verifierOf(t, others, "statement.key")
	c.write("other-identity.json", other.Canonical())
	c.reports(1, [3]receipt.Status{holds, refuted, refuted}, receipt.ReasonOtherLog, "--identity", "other-identity.json", "deed.pdf", "deed.pdf.receipt.json")
}
