package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
)

// fsckModule is somebody else's checker of tlog-tiles logs: what it says of ours
// doesn't come from our own reading of the specification.
const fsckModule = "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4"

var installFsck = sync.OnceValues(func() (string, error) {
	p, err := build()
	if err != nil {
		return "", err
	}
	// The environment has the rest: where modules come from, and what is cached.
	cmd := exec.Command("go", "install", fsckModule)
	cmd.Env = append(os.Environ(), "GOBIN="+p.dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", fsckModule, err, out)
	}
	return filepath.Join(p.dir, "fsck"), nil
})

// fsck walks the whole log at an address with the program of others. It always
// exits with 0, so what counts is what it says.
func (c *citizen) fsck(address string) (says string) {
	t := c.d.t
	t.Helper()
	program, err := installFsck()
	if err != nil {
		t.Fatal(err)
	}
	c.write("log.pub", []byte(c.d.identity.CheckpointKeys[0]))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-storage_url", address, "-public_key", c.path("log.pub"), "-ui=false", "-N", "8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fsck %s: %v\n%s", address, err, out)
	}
	return string(out)
}

// passesFsck demands that the log at an address is whole, with that size and root.
func (c *citizen) passesFsck(address string, want audit.Tree) {
	c.d.t.Helper()
	says := c.fsck(address)
	good := fmt.Sprintf("Successfully fsck'd log with size %d and root", want.Size)
	if !strings.Contains(says, good) || !strings.Contains(says, want.Root.String()) || strings.Contains(says, "failed") {
		c.d.t.Errorf("fsck of %s, which should have %d entries and root %s:\n%s", address, want.Size, want.Root, says)
	}
}

// audits runs calpe audit and gives its report.
func (c *citizen) audits(want int, status receipt.Status, reason audit.Reason, args ...string) (r audit.Report) {
	t := c.d.t
	t.Helper()
	out := c.exits(want, append([]string{"audit", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("calpe audit %v: %v: %s", args, err, out)
	}
	if r.Status != status || r.Reason != reason {
		t.Errorf("calpe audit %v: %s %q, want %s %q: %s", args, r.Status, r.Reason, status, reason, r.Text)
	}
	return r
}

// stampMany records commitments as one stream.
func (s *server) stampMany(seed uint64, n int) (first uint64) {
	t := s.d.t
	t.Helper()
	packed := make([]byte, 0, n*calpe.HashSize)
	for i := range n {
		h := sha256.Sum256(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), uint64(i)))
		packed = append(packed, h[:]...)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/commitments", bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Authorization", "Bearer "+s.d.token)
	response, err := s.d.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for begun := false; ; begun = true {
		var line struct{ First, Recorded uint64 }
		if err := lines.Decode(&line); err != nil || response.StatusCode != http.StatusCreated {
			t.Fatalf("%d commitments: status %d, %v", n, response.StatusCode, err)
		}
		if !begun {
			first = line.First
		}
		if line.Recorded == uint64(n) {
			return first
		}
	}
}

// sealed waits until the log publishes all that it has promised.
func (s *server) sealed() {
	t := s.d.t
	t.Helper()
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitCheckpoint(st.Next)
}

// auditor is somebody who has nothing but the log's address and its identity.
func (d *deployment) auditor() *citizen {
	d.t.Helper()
	c := &citizen{d: d, dir: d.t.TempDir(), env: map[string]string{"CALPE_IDENTITY": "identity.json"}}
	c.write("identity.json", d.identity.Canonical())
	return c
}

// publish makes the log's bucket readable for everybody, and gives its address.
func (d *deployment) publish() string {
	d.t.Helper()
	bucket := d.env["CALPE_S3_LOG_BUCKET"]
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::%s/*"]}]}`, bucket)
	if err := d.objectStorage().SetBucketPolicy(d.t.Context(), bucket, policy); err != nil {
		d.t.Fatal(err)
	}
	return d.env["CALPE_S3_ENDPOINT"] + "/" + bucket + "/"
}

// TestPublicLog lets strangers read the whole log, over HTTP and straight from the
// bucket: with partial tiles, and with so many entries that there is a tile above
// the tiles above the entries.
func TestPublicLog(t *testing.T) {
	d := deploy(t)
	s := d.serve(porttest.Address(t), map[string]string{"CALPE_ANCHOR_INTERVAL": "1h"})
	s.awaitReady()
	c, log := d.auditor(), s.url+"/log/"

	s.stampMany(1, 300)
	s.sealed()
	early := c.audits(0, holds, "", "--server", s.url, "--dir", "mirror")
	if early.Previous != nil || early.Checked.Entries != early.Checkpoint.Size || early.Checkpoint.Size <= 300 {
		t.Errorf("the first audit: %+v", early)
	}
	c.passesFsck(log, *early.Checkpoint)

	// More in one go than a bundle of bundles holds, then a few more.
	s.stampMany(2, calpe.MaxGroup)
	s.stampMany(3, 700)
	s.sealed()
	grown := c.audits(0, holds, "", "--server", s.url, "--dir", "mirror")
	if diff := cmp.Diff(early.Checkpoint, grown.Previous); diff != "" || grown.Checked.Entries != grown.Checkpoint.Size-early.Checkpoint.Size {
		t.Errorf("the second audit doesn't go on where the first ended: %+v\n%s", grown, diff)
	}
	if grown.Checkpoint.Size <= calpe.MaxGroup {
		t.Fatalf("only %d entries: there is no third level of tiles", grown.Checkpoint.Size)
	}
	bucket := d.publish()
	for _, address := range []string{log, bucket, "file://" + c.path("mirror") + "/"} {
		c.passesFsck(address, *grown.Checkpoint)
	}
	for _, place := range []string{"mirror", bucket} {
		whole := c.audits(0, holds, "", "--log", place)
		if diff := cmp.Diff(grown.Checkpoint, whole.Checkpoint); diff != "" || whole.Checked.Entries != grown.Checkpoint.Size {
			t.Errorf("--log %s: %+v\n%s", place, whole, diff)
		}
	}
	s.exitsCleanly()
	c.tamper()
	c.contradict(*grown.Checkpoint)
}

// tamper changes a byte of one object of a copy at a time: it is named, by both
// programs.
func (c *citizen) tamper() {
	t := c.d.t
	t.Helper()
	for _, tc := range []struct {
		path   string
		reason audit.Reason
		names  string
	}{
		{"tile/1/000", audit.ReasonTile, "hash 255 in tile/1/000 "},
		{"tile/0/077", audit.ReasonBundle, "entry 19967 in tile/entries/077 isn't the one that the tile above it has the hash of"},
		{"tile/entries/200", audit.ReasonBundle, "entry 51455 in tile/entries/200 "},
	} {
		file := filepath.Join("mirror", filepath.FromSlash(tc.path))
		right := c.read(file)
		wrong := bytes.Clone(right)
		wrong[len(wrong)-1] ^= 1
		c.write(file, wrong)
		if r := c.audits(1, refuted, tc.reason, "--log", "mirror"); !strings.Contains(r.Text, tc.names) {
			t.Errorf("a wrong %s isn't named: %s", tc.path, r.Text)
		}
		if says := c.fsck("file://" + c.path("mirror") + "/"); strings.Contains(says, "Successfully") {
			t.Errorf("fsck takes a wrong %s:\n%s", tc.path, says)
		}
		c.write(file, right)
	}
	c.audits(0, holds, "", "--log", "mirror")
}

// contradict: the log's key signs another root of the same size.
func (c *citizen) contradict(now audit.Tree) {
	t := c.d.t
	t.Helper()
	copyTree(t, c.path("mirror"), c.path("other"))
	key := readKey(t, c.d.env["CALPE_KEYS"], "checkpoint.key")
	note, err := receipt.SignCheckpoint(key, testOrigin, now.Size, calpe.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	c.write("other/checkpoint", note)
	r := c.audits(1, refuted, audit.ReasonSplitView, "--log", "other", "--dir", "mirror")
	c.keepsConflict(r, note, c.read("mirror/checkpoint"))
}

// keepsConflict: the two notes are in the report and in the mirror.
func (c *citizen) keepsConflict(r audit.Report, notes ...[]byte) {
	t := c.d.t
	t.Helper()
	files, err := filepath.Glob(c.path("mirror/conflicts/*"))
	if err != nil || len(files) != 2 || len(r.Evidence) != 2 {
		t.Fatalf("%d notes in the report, %d in the mirror, %v", len(r.Evidence), len(files), err)
	}
	for _, note := range notes {
		found := 0
		for i, file := range files {
			kept, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(kept, note) {
				found++
			}
			if r.Evidence[i] == string(note) {
				found++
			}
		}
		if found != 2 {
			t.Errorf("this isn't both in the report and in the mirror:\n%s", note)
		}
	}
}

// TestSecondHistory is the operator's worst: database and object storage are put
// back together, so that the service notices nothing, and go on with other
// entries. Whoever has audited before has the proof.
func TestSecondHistory(t *testing.T) {
	d := prepare(t)
	startS3 := d.ownS3()
	storage := startS3()
	d.create()
	address := porttest.Address(t)
	quiet := map[string]string{"CALPE_ANCHOR_INTERVAL": "1h"}
	s := d.serve(address, quiet)
	s.awaitReady()
	s.stampMany(1, 20)
	s.sealed()
	s.exitsCleanly()
	if _, err := storage.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.db.stop()
	d.db.copyTo("before")
	copyTree(t, filepath.Join(d.dir, "s3"), filepath.Join(d.dir, "s3-before"))

	history := func(seed uint64, entries int) *server {
		d.db.start()
		storage = startS3()
		s := d.serve(address, quiet)
		s.awaitReady()
		s.stampMany(seed, entries)
		s.sealed()
		return s
	}
	s = history(2, 500)
	c := d.auditor()
	first := c.audits(0, holds, "", "--server", s.url, "--dir", "mirror")
	seen := c.read("mirror/checkpoint")
	s.exitsCleanly()
	if _, err := storage.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.db.stop()
	d.db.putBack("before")
	if err := os.RemoveAll(filepath.Join(d.dir, "s3")); err != nil {
		t.Fatal(err)
	}
	copyTree(t, filepath.Join(d.dir, "s3-before"), filepath.Join(d.dir, "s3"))

	s = history(3, 900)
	r := c.audits(1, refuted, audit.ReasonSplitView, "--server", s.url, "--dir", "mirror")
	if diff := cmp.Diff(first.Checkpoint, r.Previous); diff != "" || r.Checkpoint.Size <= first.Checkpoint.Size {
		t.Errorf("%+v\n%s", r, diff)
	}
	c.keepsConflict(r, seen)
	// A stranger, who hasn't seen the first one, finds nothing wrong: that is why audits are kept up.
	d.auditor().audits(0, holds, "", "--server", s.url)
	s.exitsCleanly()
}
