package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/ots"
)

// serveCalendar starts a server with a calendar, and gives the calendar's address.
func (d *deployment) serveCalendar(extra map[string]string) (*server, string) {
	d.t.Helper()
	address := freeAddress(d.t)
	uri := "http://" + address
	settings := map[string]string{"CALPE_CALENDAR_LISTEN": address, "CALPE_CALENDAR_URI": uri}
	for name, value := range extra {
		settings[name] = value
	}
	s := d.serve(freeAddress(d.t), settings)
	s.awaitReady()
	return s, uri
}

// otsClient is an OpenTimestamps client that others wrote. Each command of its
// script takes an address and a file.
type otsClient struct {
	name string
	argv []string
	env  []string
	// judge is what verify takes: where the client gets headers from.
	judge string
}

// otsClients are those that "make test" installs.
func otsClients(t testing.TB) (js, python otsClient) {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(setting(t, "CALPE_OPENTIMESTAMPS_CLIENTS"), "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	script := func(name string) string {
		path, err := filepath.Abs(filepath.Join("testdata", "ots", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	return otsClient{name: "opentimestamps (npm)", argv: []string{"node", script("client.js")}, env: []string{"NODE_PATH=" + modules}},
		otsClient{name: "python3-opentimestamps", argv: []string{"/usr/bin/python3", script("client.py")}}
}

// client gives the exit code of a client's command.
func (c *citizen) client(o otsClient, args ...string) (stdout, stderr string, code int) {
	c.d.t.Helper()
	ctx, cancel := context.WithTimeout(c.d.t.Context(), time.Minute)
	defer cancel()
	args = append(o.argv[1:len(o.argv):len(o.argv)], args...)
	cmd := exec.CommandContext(ctx, o.argv[0], args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, &out, &errs
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}, o.env...)
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		c.d.t.Fatalf("%s %v: %v, %v\n%s", o.name, args, err, ctx.Err(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// asks runs a client's command and compares the exit code.
func (c *citizen) asks(o otsClient, want int, args ...string) string {
	c.d.t.Helper()
	out, errs, code := c.client(o, args...)
	if code != want {
		c.d.t.Errorf("%s %s: exit code %d, want %d\n%s%s", o.name, strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

// explorer answers as a block explorer of the Esplora kind does, from a file of
// headers: the JavaScript client asks one where it has no node.
func explorer(t testing.TB, file []byte) string {
	t.Helper()
	blocks := map[string][]byte{}
	mux := http.NewServeMux()
	for i := 0; i+calpe.HeaderSize <= len(file); i += calpe.HeaderSize {
		header := file[i : i+calpe.HeaderSize]
		blocks[strconv.Itoa(i/calpe.HeaderSize)], blocks[blockHash(header)] = header, header
	}
	answer := func(write func(w http.ResponseWriter, header []byte)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			header, ok := blocks[r.PathValue("block")]
			if !ok {
				http.NotFound(w, r)
				return
			}
			write(w, header)
		}
	}
	mux.HandleFunc("GET /block-height/{block}", answer(func(w http.ResponseWriter, header []byte) { fmt.Fprint(w, blockHash(header)) }))
	mux.HandleFunc("GET /block/{block}", answer(func(w http.ResponseWriter, header []byte) {
		root := calpe.BlockHash(header[36:68])
		_ = json.NewEncoder(w).Encode(map[string]any{"merkle_root": root.String(), "timestamp": binary.LittleEndian.Uint32(header[68:])})
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func blockHash(header []byte) string {
	once := sha256.Sum256(header)
	return calpe.BlockHash(sha256.Sum256(once[:])).String()
}

// TestOpenTimestampsClients: the clients of two other languages stamp with our
// calendar, upgrade and verify; each reads what the others wrote, and what we
// write of a receipt.
func TestOpenTimestampsClients(t *testing.T) {
	js, python := otsClients(t)
	d := deploy(t)
	s, uri := d.serveCalendar(nil)
	c := &citizen{d: d, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": s.url, "CALPE_TOKEN": d.token}}
	stampedBy := map[string]otsClient{"js.txt": js, "python.txt": python}
	for name, client := range stampedBy {
		c.write(name, []byte("stamped by "+client.name+"\n"))
		c.asks(client, 0, "stamp", uri, name)
		c.write("copy of "+name, c.read(name))
		c.write("copy of "+name+".ots", c.read(name+".ots"))
	}
	c.write("deed.txt", []byte("has a receipt\n"))
	c.exits(0, "upload", "deed.txt")
	c.writeOTS("deed.txt", uri)
	c.write("early.txt", c.read("deed.txt"))
	c.write("early.txt.ots", c.read("deed.txt.ots"))

	// No block yet: both say so, in the calendar's words, and change nothing.
	for name, client := range stampedBy {
		before := c.read(name + ".ots")
		said := c.asks(client, 3, "upgrade", uri, name)
		if client.name == python.name && !strings.Contains(said, "Pending confirmation in Bitcoin blockchain") {
			t.Errorf("%s was told: %s", client.name, said)
		}
		if !bytes.Equal(before, c.read(name+".ots")) {
			t.Errorf("%s changed a file without an answer", client.name)
		}
	}

	defer d.node.keepMining(400 * time.Millisecond)()
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFinal(st.Next)
	c.exits(0, "receipt", "--wait", "final", "--timeout", "90s", "deed.txt.receipt.json")
	c.writeOTS("deed.txt", "")
	c.fetchHeaders()
	js.judge, python.judge = explorer(t, c.read("headers.bin")), "headers.bin"
	for name, client := range stampedBy {
		c.asks(client, 0, "upgrade", uri, name)
		c.upgradeOTS("copy of " + name)
	}
	c.asks(js, 0, "upgrade", uri, "early.txt")
	for _, name := range []string{"js.txt", "python.txt", "copy of js.txt", "copy of python.txt", "deed.txt", "early.txt"} {
		c.allVerify(name, js, python)
	}
	c.noneVerifies("deed.txt", js, python)
	s.exitsCleanly()
}

// writeOTS writes a receipt as a .ots file.
func (c *citizen) writeOTS(name, calendar string) {
	t := c.d.t
	t.Helper()
	r, err := receipt.Decode(c.read(name + ".receipt.json"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ots.FromReceipt(r, calendar)
	if err != nil {
		t.Fatal(err)
	}
	c.save(name, f)
}

func (c *citizen) save(name string, f ots.DetachedFile) {
	c.d.t.Helper()
	data, err := f.Serialize()
	if err != nil {
		c.d.t.Fatal(err)
	}
	c.write(name+".ots", data)
}

// upgradeOTS completes a file with the calendar that it names.
func (c *citizen) upgradeOTS(name string) {
	t := c.d.t
	t.Helper()
	f, err := ots.Parse(c.read(name + ".ots"))
	if err != nil {
		t.Fatal(err)
	}
	for message, uri := range f.Timestamp().Pending() {
		status, body, err := c.d.get(t.Context(), uri+"/timestamp/"+hex.EncodeToString(message), "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", name, status, body, err)
		}
		answer, err := ots.ParseTimestamp(message, body)
		if err != nil {
			t.Fatal(err)
		}
		if f, err = f.Upgrade(answer); err != nil {
			t.Fatal(err)
		}
	}
	c.save(name, f)
}

// verifyOTS is what we find in a .ots file.
func (c *citizen) verifyOTS(name string) ots.Report {
	t := c.d.t
	t.Helper()
	f, err := ots.Parse(c.read(name + ".ots"))
	if err != nil {
		t.Fatal(err)
	}
	params, err := headers.ParamsFor("regtest")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(c.read("headers.bin")), params)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(c.read(name))
	return ots.Verify(ots.Input{File: f, Digest: digest[:], Headers: chain, Depth: testDepth})
}

// allVerify: every client finds the same block in a file.
func (c *citizen) allVerify(name string, clients ...otsClient) {
	t := c.d.t
	t.Helper()
	report := c.verifyOTS(name)
	if report.Existed.Status != holds || report.Block == nil {
		t.Errorf("%s: %+v", name, report)
		return
	}
	want := fmt.Sprintf("%d %d", report.Block.Height, report.Block.Time.Unix())
	for _, client := range clients {
		out, errs, code := c.client(client, "verify", client.judge, name)
		if code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("%s finds %q in %s, exit code %d; want block and time %s\n%s", client.name, out, name, code, want, errs)
		}
	}
}

// noneVerifies: a changed document, and a proof that leads elsewhere, are
// refused by all: else the agreement of the others would mean nothing.
func (c *citizen) noneVerifies(name string, clients ...otsClient) {
	t := c.d.t
	t.Helper()
	c.write("changed.txt", append(c.read(name), ' '))
	c.write("changed.txt.ots", c.read(name+".ots"))
	c.write("forged.txt", c.read(name))
	forged := c.read(name + ".ots")
	forged[len(forged)-80] ^= 1 // in a sibling hash or the transaction
	c.write("forged.txt.ots", forged)
	for _, bad := range []string{"changed.txt", "forged.txt"} {
		if report := c.verifyOTS(bad); report.Existed.Status != refuted {
			t.Errorf("%s: %+v", bad, report)
		}
		for _, client := range clients {
			c.asks(client, 1, "verify", client.judge, bad)
		}
	}
}

// TestFloodedCalendar: while anybody floods the calendar, a client with a token
// is served, and the calendar makes a group a second and no more, however many
// digests come.
func TestFloodedCalendar(t *testing.T) {
	d := deploy(t)
	s, uri := d.serveCalendar(map[string]string{"CALPE_CALENDAR_PER_MINUTE": "1000000", "CALPE_CALENDAR_TOTAL": "1000000"})
	flood, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	stamped := map[int]int{}
	for range 200 {
		wg.Go(func() {
			for flood.Err() == nil {
				status := d.stamp(flood, uri)
				mu.Lock()
				stamped[status]++
				mu.Unlock()
			}
		})
	}
	var acks []acknowledged
	for i := range 30 {
		acks = append(acks, s.takes(newRequestOf(stampKind, uint64(i), 0)), s.takes(newRequestOf(documentKind, uint64(1000+i), 2000)))
	}
	eventually(t, time.Minute, "digests are stamped", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if n := stamped[http.StatusOK]; n < 500 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	stop()
	wg.Wait()
	delete(stamped, 0) // cut off by the end of the flood
	if len(stamped) != 1 {
		t.Errorf("answers of the calendar: %v", stamped)
	}

	// Only the calendar makes groups of many entries that no document belongs to.
	var groups, entries, seconds int
	err := d.connect().QueryRow(t.Context(), `
		SELECT count(*), sum(count), extract(epoch FROM max(time) - min(time))::int FROM entry_group
		WHERE origin = 'intake' AND count > 2 AND NOT EXISTS (SELECT FROM document WHERE document.index >= first AND document.index < first + count)`).Scan(&groups, &entries, &seconds)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d digests in %d groups within %d s, beside %d requests with a token", entries, groups, seconds, len(acks))
	if groups > seconds+2 || entries < 500 {
		t.Errorf("%d digests in %d groups within %d s, want a group a second", entries, groups, seconds)
	}
	defer d.node.keepMining(400 * time.Millisecond)()
	s.check(acks, nil)
	s.exitsCleanly()
}

// stamp gives the status of a digest's answer, 0 if there was none.
func (d *deployment) stamp(ctx context.Context, uri string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, uri+"/digest", strings.NewReader("a digest of any kind"))
	if err != nil {
		return 0
	}
	answer, err := d.http.Do(request)
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}
