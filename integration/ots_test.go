package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
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
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
)

// serveCalendar starts a server with a calendar, and gives the calendar's address.
func (d *deployment) serveCalendar(extra map[string]string) (*server, string) {
	d.t.Helper()
	address := porttest.Address(d.t)
	uri := "http://" + address
	settings := map[string]string{"CALPE_CALENDAR_LISTEN": address, "CALPE_CALENDAR_URI": uri}
	for name, value := range extra {
		settings[name] = value
	}
	s := d.serve(porttest.Address(d.t), settings)
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
	modules := filepath.Join(setting(t, "CALPE_OPENTIMESTAMPS_CLIENTS"), "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "opentimestamps")); err != nil || !filepath.IsAbs(modules) {
		t.Fatalf("CALPE_OPENTIMESTAMPS_CLIENTS isn't the absolute path of a folder that deploy/opentimestamps has filled: %s, %v", modules, err)
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
	ctx, cancel := context.WithTimeout(c.d.t.Context(), patience)
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

// TestOpenTimestampsClients: the clients of two other languages, and calpe, stamp
// with our calendar, upgrade and verify; each reads what the others wrote, and
// what we write of a receipt.
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
	c.write("calpe.txt", []byte("stamped by calpe\n"))
	c.exits(0, "ots", "stamp", "--calendar", uri, "calpe.txt")
	c.write("deed.txt", []byte("has a receipt\n"))
	c.exits(0, "upload", "deed.txt")
	c.write("early.txt", c.read("deed.txt"))
	c.write("early.txt.ots", c.otsOf("deed.txt"))

	// No block yet: all say so, in the calendar's words, and change nothing.
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
	c.exits(3, "ots", "upgrade", "--calendar", uri, "copy of js.txt.ots", "calpe.txt.ots", "early.txt.ots")

	defer d.node.keepMining(400 * time.Millisecond)()
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.awaitFinal(st.Next)
	c.fetchHeaders()
	js.judge, python.judge = explorer(t, c.read("headers.bin")), "headers.bin"
	for name, client := range stampedBy {
		c.asks(client, 0, "upgrade", uri, name)
	}
	c.asks(js, 0, "upgrade", uri, "early.txt")
	c.exits(0, "ots", "upgrade", "--calendar", uri, "--headers", "headers.bin", "copy of js.txt.ots", "copy of python.txt.ots", "calpe.txt.ots")
	c.exits(0, "receipt", "--wait", "final", "--timeout", patience.String(), "deed.txt.receipt.json")
	c.exits(0, "ots", "export", "-o", "deed.txt.ots", "deed.txt.receipt.json")
	if !bytes.Equal(c.otsOf("deed.txt"), c.read("deed.txt.ots")) {
		t.Error("the service and calpe write another .ots file of one receipt")
	}
	s.exitsCleanly() // from here on there is no service
	for _, name := range []string{"js.txt", "python.txt", "calpe.txt", "copy of js.txt", "copy of python.txt", "deed.txt", "early.txt"} {
		c.allVerify(name, js, python)
	}
	c.noneVerifies("deed.txt", js, python)
}

// otsOf is what the service gives of a document that calpe has uploaded.
func (c *citizen) otsOf(name string) []byte {
	t := c.d.t
	t.Helper()
	r, err := receipt.Decode(c.read(name + ".receipt.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Documents []struct{ ID, Digest string }
	}
	if err := c.d.getJSON(t.Context(), c.env["CALPE_SERVER"]+"/v1/documents", &list); err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Documents {
		if d.Digest != r.Digest.String() {
			continue
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.env["CALPE_SERVER"]+"/v1/documents/"+d.ID+"/receipt", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept", "application/vnd.opentimestamps.v1")
		request.Header.Set("Authorization", "Bearer "+c.d.token)
		answer, err := c.d.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s as .ots: %d %s, %v", name, answer.StatusCode, body, err)
		}
		return body
	}
	t.Fatalf("the service has no document like %s", name)
	return nil
}

// otsReport is what calpe finds in a .ots file.
func (c *citizen) otsReport(name string, exit int) (status receipt.Status, block string) {
	t := c.d.t
	t.Helper()
	out := c.exits(exit, "ots", "verify", "--json", "--depth", strconv.Itoa(testDepth), "--headers", "headers.bin", name, name+".ots")
	var answer struct {
		Report struct {
			Existed struct {
				Status receipt.Status `json:"status"`
			} `json:"existed"`
			Block *struct {
				Height int       `json:"height"`
				Time   time.Time `json:"time"`
			} `json:"block"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Errorf("calpe ots verify %s: %v: %s", name, err, out)
		return "", ""
	}
	if b := answer.Report.Block; b != nil {
		block = fmt.Sprintf("%d %d", b.Height, b.Time.Unix())
	}
	return answer.Report.Existed.Status, block
}

// allVerify: every client finds the same block in a file.
func (c *citizen) allVerify(name string, clients ...otsClient) {
	t := c.d.t
	t.Helper()
	status, want := c.otsReport(name, 0)
	if status != holds || want == "" {
		t.Errorf("%s: %s, block %q", name, status, want)
		return
	}
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
		if status, _ := c.otsReport(bad, 1); status != refuted {
			t.Errorf("%s: %s", bad, status)
		}
		for _, client := range clients {
			c.asks(client, 1, "verify", client.judge, bad)
		}
	}
}

// calendarPatience is how long the calendar keeps a client whose digest waits.
const calendarPatience = 10 * time.Second

// stampFlood are clients that have digests stamped as fast as they are answered.
type stampFlood struct {
	stop func() // ends them; returns when they have
	mu   sync.Mutex
	by   map[int]int // answers by their status
}

// flood runs until it is stopped, or until the calendar can't be reached.
func (d *deployment) flood(uri string) *stampFlood {
	ctx, cancel := context.WithCancel(d.t.Context())
	f := &stampFlood{by: map[int]int{}}
	var clients sync.WaitGroup
	for range 200 {
		clients.Go(func() {
			for {
				start := time.Now()
				status := d.stamp(ctx, uri)
				if status == 0 {
					return
				}
				if status == http.StatusServiceUnavailable && time.Since(start) >= calendarPatience {
					continue // the machine stood still, and the calendar keeps nobody longer
				}
				f.mu.Lock()
				f.by[status]++
				f.mu.Unlock()
			}
		})
	}
	f.stop = func() { cancel(); clients.Wait() }
	return f
}

// awaitStamped waits until so many digests have been stamped.
func (f *stampFlood) awaitStamped(t testing.TB, n int) {
	t.Helper()
	eventually(t, "digests are stamped", func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if got := f.by[http.StatusOK]; got < n {
			return fmt.Errorf("%d of %d are", got, n)
		}
		return nil
	})
}

// onlyStamps: nobody was refused, but for who had waited as long as anybody does. Call it when the flood has stopped.
func (f *stampFlood) onlyStamps(t testing.TB) {
	t.Helper()
	if len(f.by) != 1 || f.by[http.StatusOK] == 0 {
		t.Errorf("answers of the calendar by status: %v", f.by)
	}
}

// TestFloodedCalendar: while anybody floods the calendar, a client with a token
// is served, and the calendar makes a group a second and no more, however many
// digests come. At a shutdown each digest that was taken has its answer.
func TestFloodedCalendar(t *testing.T) {
	d := deploy(t)
	s, uri := d.serveCalendar(map[string]string{"CALPE_CALENDAR_PER_MINUTE": "1000000", "CALPE_CALENDAR_TOTAL": "1000000"})
	flood := d.flood(uri)
	var acks []acknowledged
	for i := range 30 {
		acks = append(acks, s.takes(newRequestOf(stampKind, uint64(i), 0)), s.takes(newRequestOf(documentKind, uint64(1000+i), 2000)))
	}
	flood.awaitStamped(t, 500)
	flood.stop()
	flood.onlyStamps(t)
	d.checkStampGroups(len(acks))
	defer d.node.keepMining(400 * time.Millisecond)()
	s.check(acks, nil)

	flood = d.flood(uri)
	flood.awaitStamped(t, 300)
	s.exitsCleanly()
	flood.stop()
	flood.onlyStamps(t)
}

// checkStampGroups: the calendar made a group a second.
func (d *deployment) checkStampGroups(others int) {
	t := d.t
	t.Helper()
	// Only the calendar makes groups of many entries that no document belongs to.
	var groups, entries, seconds int
	err := d.connect().QueryRow(t.Context(), `
		SELECT count(*), sum(count), extract(epoch FROM max(time) - min(time))::int FROM entry_group
		WHERE origin = 'intake' AND count > 2 AND NOT EXISTS (SELECT FROM document WHERE document.index >= first AND document.index < first + count)`).Scan(&groups, &entries, &seconds)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d digests in %d groups within %d s, beside %d requests with a token", entries, groups, seconds, others)
	if groups > seconds+2 || entries < 500 {
		t.Errorf("%d digests in %d groups within %d s, want a group a second", entries, groups, seconds)
	}
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
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0
	}
	return answer.StatusCode
}
