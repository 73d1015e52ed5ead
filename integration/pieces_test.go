package integration

import (
	"crypto/sha256"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
)

// TestKillWhileADocumentComesInPieces kills the server at each step of a document
// that calpe sends in pieces, and calpe itself, and lets both go on: the document
// is in the log once, whole, and with a receipt that verifies.
func TestKillWhileADocumentComesInPieces(t *testing.T) {
	d := deploy(t)
	address := porttest.Address(t)
	clean := d.serve(address, nil)
	clean.awaitReady()
	c := &citizen{d: d, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": clean.url, "CALPE_TOKEN": d.token}}
	for i, at := range []crash{
		{commitpoint.ObjectPartStored, 2}, {commitpoint.PartialAdvanced, 1}, {commitpoint.ObjectStored, 1}, {commitpoint.PartialRecorded, 1},
	} {
		name := string(at.point) + ".bin"
		content := newRequestOf(documentKind, uint64(i), 6<<20).content()
		c.write(name, content)
		clean.kill()
		dying := d.serve(address, at.setting())
		sent := make(chan string, 1)
		go func() {
			out, errs, _ := c.calpe(nil, "upload", "--resumable", "1000", name) // it may outlast the restart, or not
			sent <- out + errs
		}()
		dying.dies(at)
		clean = d.serve(address, nil)
		clean.awaitReady()
		said := <-sent
		c.exits(0, "upload", "--resumable", "1000", name)
		t.Logf("%s: %s", at.point, strings.TrimSpace(said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]))
		c.holdsPieces(name, content)
	}
	c.killed(clean)
	clean.exitsCleanly()
}

// killed ends calpe while it sends, and runs it again.
func (c *citizen) killed(s *server) {
	c.d.t.Helper()
	content := newRequestOf(documentKind, 100, 30<<20).content()
	c.write("large.bin", content)
	cmd := exec.CommandContext(c.d.t.Context(), c.d.bin.calpe, "upload", "--resumable", "1000", "large.bin")
	cmd.Dir, cmd.Env = c.dir, []string{"HOME=" + c.dir, "CALPE_SERVER=" + s.url, "CALPE_TOKEN=" + c.d.token}
	if err := cmd.Start(); err != nil {
		c.d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for running := true; running && !c.hasBegun("large.bin"); {
		select {
		case <-ended:
			running = false // it was faster than this test looks: then there is nothing to kill
			ended <- nil
		case <-time.After(time.Millisecond):
		}
	}
	_ = cmd.Process.Kill()
	<-ended
	c.exits(0, "upload", "--resumable", "1000", "large.bin")
	c.holdsPieces("large.bin", content)
}

// hasBegun reports whether calpe knows an address for the pieces.
func (c *citizen) hasBegun(name string) bool {
	matches, err := filepath.Glob(c.path(name + ".upload-pending.json"))
	return err == nil && len(matches) == 1 && strings.Contains(string(c.read(name+".upload-pending.json")), "v1/uploads/")
}

// holdsPieces looks for the document in the service's rows and at its content: it
// is there once.
func (c *citizen) holdsPieces(name string, content []byte) {
	t := c.d.t
	t.Helper()
	var list struct {
		Documents []struct {
			ID, Name, Digest string
			Size             int64
		}
	}
	if err := c.d.getJSON(t.Context(), c.env["CALPE_SERVER"]+"/v1/documents?limit=100", &list); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, document := range list.Documents {
		if document.Name != name {
			continue
		}
		found++
		status, body, err := c.d.get(t.Context(), c.env["CALPE_SERVER"]+"/v1/documents/"+document.ID+"/content", c.d.token)
		if err != nil || status != 200 || sha256.Sum256(body) != sha256.Sum256(content) {
			t.Errorf("%s: status %d, %d bytes of %d, %v", name, status, len(body), len(content), err)
		}
	}
	if found != 1 {
		t.Errorf("%s is in the log %d times", name, found)
	}
}

// TestTusClient sends documents with a client that isn't ours, in pieces of
// several sizes, which it breaks off and takes up again.
func TestTusClient(t *testing.T) {
	modules := filepath.Join(setting(t, "CALPE_OPENTIMESTAMPS_CLIENTS"), "node_modules")
	script, err := filepath.Abs(filepath.Join("testdata", "tus", "client.js"))
	if err != nil {
		t.Fatal(err)
	}
	d := deploy(t)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	c := &citizen{d: d, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": s.url, "CALPE_TOKEN": d.token}}
	client := otsClient{name: "tus-js-client", argv: []string{"node", script}, env: []string{"NODE_PATH=" + modules}}
	for i, piece := range []string{"100000", "3000000", "Infinity"} {
		content := newRequestOf(documentKind, uint64(i), 6<<20+i).content()
		c.write("sent.bin", content)
		out, errs, code := c.client(client, s.url, d.token, "sent.bin", piece, "5")
		if code != 0 {
			t.Fatalf("pieces of %s: exit code %d\n%s%s", piece, code, out, errs)
		}
		var upload struct {
			Size, Received int64
			Document       struct{ ID, Name string }
		}
		if err := d.getJSON(t.Context(), strings.TrimSpace(out), &upload); err != nil {
			t.Fatal(err)
		}
		status, body, err := d.get(t.Context(), s.url+"/v1/documents/"+upload.Document.ID+"/content", d.token)
		if err != nil || status != 200 || sha256.Sum256(body) != sha256.Sum256(content) || upload.Document.Name != "from tus-js-client.bin" || upload.Received != upload.Size {
			t.Errorf("pieces of %s: status %d, %d bytes of %d, %v: %+v", piece, status, len(body), len(content), err, upload)
		}
	}
	s.exitsCleanly()
}
