package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// streamLength is how many commitments the tests of streams send: 150,000, or as
// many as CALPE_STREAM_LENGTH says. The longer run is `make torture`.
func streamLength(t testing.TB) uint64 {
	t.Helper()
	text := os.Getenv("CALPE_STREAM_LENGTH")
	if text == "" {
		return 150_000
	}
	n, err := strconv.ParseUint(text, 10, 40)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// streamed is commitment i of upload number seed.
func streamedCommitment(seed, i uint64) (c calpe.Commitment) {
	for j, word := range [4]uint64{seed, i, ^i, seed * i} {
		for k := range 8 {
			c[8*j+k] = byte(word >> (8 * k))
		}
	}
	return c
}

// upload is a stream that is cut and gone on with, and what was answered.
type upload struct {
	d     *deployment
	key   string
	seed  uint64
	count uint64
	token string
	done  uint64
	index []uint64 // of each commitment that is acknowledged
	cuts  int
	http2 bool
}

// body is what is left, and breaks off after so many bytes.
func (u *upload) body(limit int64) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		w := bufio.NewWriterSize(pw, 64<<10)
		for i := u.done; i < u.count; i++ {
			c := streamedCommitment(u.seed, i)
			if _, err := w.Write(c[:]); err != nil {
				return
			}
		}
		_ = pw.CloseWithError(w.Flush())
	}()
	return &breaking{pr, limit}
}

var errCut = errors.New("the client is cut off")

// breaking ends with an error after some bytes.
type breaking struct {
	io.ReadCloser
	left int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errCut
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// streamLine is a line of the answer.
type streamLine struct {
	Offset, First, Count uint64
	Acknowledgement      struct {
		Note string
		Path receipt.Path
	}
	Recorded *uint64
	Error    *struct{ Code, Detail string }
}

// request makes one request, and takes up to some lines of its answer.
func (u *upload) request(ctx context.Context, base, method string, body io.Reader, lines int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/v1/commitments?offset=%d", base, u.done), body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+u.token)
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("Idempotency-Key", u.key)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!u.http2)
	protocols.SetUnencryptedHTTP2(u.http2)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Protocols: protocols}}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if (answer.ProtoMajor == 2) != u.http2 {
		return fmt.Errorf("answered by %s", answer.Proto)
	}
	if answer.StatusCode == http.StatusTooManyRequests {
		// What was cut off before is still being brought to its end.
		pause(ctx, 100*time.Millisecond)
		return errCut
	}
	if answer.StatusCode/100 != 2 {
		text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
		return errors.Join(fmt.Errorf("%d %s", answer.StatusCode, text), err)
	}
	scanner := bufio.NewScanner(answer.Body)
	for ; lines > 0 && scanner.Scan(); lines-- {
		var line streamLine
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			return fmt.Errorf("%q: %w", scanner.Text(), err)
		}
		switch {
		case line.Error != nil:
			return fmt.Errorf("%+v", *line.Error)
		case line.Recorded != nil && *line.Recorded != u.done:
			u.d.t.Errorf("the server has recorded %d, and answered %d", *line.Recorded, u.done)
			return nil
		case line.Recorded != nil:
			return nil
		}
		if err := u.take(line); err != nil {
			u.d.t.Error(err)
			return nil
		}
	}
	return errors.Join(scanner.Err(), errCut)
}

// take checks what was signed for a group, and keeps where it is.
func (u *upload) take(line streamLine) error {
	if line.Offset != u.done || line.Count == 0 || line.Count > u.count-u.done {
		return fmt.Errorf("a group of %d at %d, after %d of %d", line.Count, line.Offset, u.done, u.count)
	}
	leaves := make([]calpe.Hash, line.Count)
	for i := range leaves {
		b := calpe.Entry{Index: line.First + uint64(i), Commitment: streamedCommitment(u.seed, u.done+uint64(i))}.Bytes()
		leaves[i] = merkle.LeafHash(b[:])
	}
	promise, err := receipt.OpenAcknowledgement([]byte(line.Acknowledgement.Note), u.d.identity)
	if err != nil {
		return err
	}
	if line.Count > 1 && (promise.First != line.First || promise.Root != merkle.Root(leaves)) {
		return fmt.Errorf("the group at %d isn't the one that was signed", line.Offset)
	}
	for i := range line.Count {
		u.index = append(u.index, line.First+i)
	}
	u.done += line.Count
	return nil
}

// tell asks which groups are recorded beyond those that were answered.
func (u *upload) tell(ctx context.Context, base string) error {
	return u.request(ctx, base, http.MethodGet, nil, 1<<30)
}

// wantInLog demands that the log holds each commitment where it was acknowledged,
// that no index was given twice, and that nothing was recorded twice: of the
// upload's commitments the log has so many and no more.
func (u *upload) wantInLog(size uint64) {
	t := u.d.t
	t.Helper()
	at := make(map[uint64]uint64, len(u.index)) // by index: which of the upload's
	for i, index := range u.index {
		if other, twice := at[index]; twice {
			t.Fatalf("index %d was given to commitments %d and %d", index, other, i)
		}
		at[index] = uint64(i)
	}
	if uint64(len(at)) != u.count {
		t.Errorf("%d of %d commitments are acknowledged", len(at), u.count)
	}
	found, marker := uint64(0), streamedCommitment(u.seed, 0)
	err := u.d.rows().ReadEntries(t.Context(), 0, size, func(first uint64, commitments []calpe.Commitment) error {
		for j, c := range commitments {
			i, mine := at[first+uint64(j)]
			if mine && c != streamedCommitment(u.seed, i) {
				return fmt.Errorf("entry %d isn't commitment %d", first+uint64(j), i)
			}
			if bytes.Equal(c[:8], marker[:8]) {
				found++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != u.count {
		t.Errorf("the log has %d commitments of an upload of %d", found, u.count)
	}
}

// peakMemory is the most that the server's process has had resident, in bytes.
func (s *server) peakMemory() int64 {
	s.d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	rest, _, _ = strings.Cut(rest, "kB")
	kilobytes, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
	if err != nil {
		s.d.t.Fatal(err)
	}
	return kilobytes << 10
}

// TestStreamTakesNoMemory sends one request with very many commitments. What the
// server needs at its peak doesn't grow with them.
func TestStreamTakesNoMemory(t *testing.T) {
	d := deploy(t)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	n := streamLength(t)
	warm := upload{d: d, key: "warm", seed: 1, count: 50_000, token: d.token, http2: true}
	if err := warm.request(t.Context(), s.url, http.MethodPost, warm.body(1<<62), 1<<30); err != nil {
		t.Fatal(err)
	}
	before := s.peakMemory()
	u := upload{d: d, key: "long", seed: 2, count: n, token: d.token}
	begun := time.Now()
	if err := u.request(t.Context(), s.url, http.MethodPost, u.body(1<<62), 1<<30); err != nil {
		t.Fatal(err)
	}
	took, after := time.Since(begun), s.peakMemory()
	t.Logf("%d commitments in %v, %.0f a second; peak memory %d MiB, after 50,000 it was %d MiB", n, took, float64(n)/took.Seconds(), after>>20, before>>20)
	// A server that kept the commitments, 32 bytes each, several times would be
	// above it in the long run; sealing goes on meanwhile, by batches.
	if grown, most := after-before, int64(160<<20); grown > most || after > 512<<20 {
		t.Errorf("the peak has grown by %d MiB to %d MiB", grown>>20, after>>20)
	}
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	warm.wantInLog(st.Next)
	u.wantInLog(st.Next)
	s.exitsCleanly()
}

// TestStreamIsCutAndGoneOnWith cuts an upload at random places: while it is sent,
// while it is answered, and by killing the server. In the end each commitment is
// in the log once, where it was acknowledged.
func TestStreamIsCutAndGoneOnWith(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	d := deploy(t)
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	const cuts, kills = 50, 3
	u := upload{d: d, key: "cut", seed: 3, count: max(streamLength(t), 150_000), token: d.token}
	for u.done < u.count {
		if err := u.tell(t.Context(), s.url); err != nil {
			t.Fatal(err)
		}
		if u.done == u.count {
			break
		}
		limit, lines := int64(1<<62), 1<<30
		if u.cuts < cuts {
			u.cuts++
			// Most cuts bring less than a group, so that there are as many as there must be.
			reach := 32 * min(int64(u.count-u.done), 8192*2)
			switch u.cuts % 3 {
			case 0:
				lines = random.IntN(3)
				limit = reach
			default:
				limit = random.Int64N(reach)
			}
		}
		var killing <-chan struct{}
		if u.cuts%(cuts/kills) == 0 && u.cuts < cuts {
			killed := make(chan struct{})
			killing = killed
			go func() {
				defer close(killed)
				pause(t.Context(), time.Duration(random.IntN(40))*time.Millisecond)
				s.kill()
			}()
		}
		err := u.request(t.Context(), s.url, http.MethodPost, u.body(limit), lines)
		if killing != nil {
			<-killing
			s = d.serve(address, nil)
			s.awaitReady()
		} else if err != nil && !errors.Is(err, errCut) {
			t.Fatal(err)
		}
	}
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %d commitments in %d pieces, a log of %d", seed, u.count, u.cuts, st.Next)
	if u.cuts < cuts {
		t.Errorf("only %d cuts", u.cuts)
	}
	u.wantInLog(st.Next)
	s.exitsCleanly()
}

// TestStampListIsKilledAndGoneOnWith kills calpe, and the server, while a list is
// stamped. In the end each digest has one receipt, and one entry.
func TestStampListIsKilledAndGoneOnWith(t *testing.T) {
	d := deploy(t)
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	const n, toTheEnd = 10_000, 1 << 30
	dir := t.TempDir()
	var list bytes.Buffer
	for i := range uint64(n) {
		c := streamedCommitment(4, i)
		list.Write(c[:])
	}
	path := filepath.Join(dir, "list")
	if err := os.WriteFile(path, list.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(until int) (ended bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cmd := exec.CommandContext(ctx, d.bin.calpe, "stamp", "--from-file", path, "-o", filepath.Join(dir, "out"))
		cmd.Env = []string{"CALPE_SERVER=" + s.url, "CALPE_TOKEN=" + d.token, "HOME=" + dir}
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		for {
			select {
			case err := <-done:
				if err != nil && until == toTheEnd {
					t.Fatalf("calpe: %v\n%s", err, text.String())
				}
				return err == nil
			case <-time.After(5 * time.Millisecond):
			}
			if entries, err := os.ReadDir(filepath.Join(dir, "out")); err == nil && len(entries) >= until {
				cancel() // SIGKILL
				<-done
				return false
			}
		}
	}
	for _, until := range []int{1, 3, 5_000} {
		run(until)
	}
	s.kill()
	s = d.serve(address, nil)
	s.awaitReady()
	if !run(toTheEnd) {
		t.Fatal("the last run doesn't end")
	}
	wantReceipts(t, d, filepath.Join(dir, "out"), n)
	s.exitsCleanly()
}

// wantReceipts holds each receipt in a folder against the log.
func wantReceipts(t *testing.T, d *deployment, folder string, n int) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	at := map[uint64]calpe.Commitment{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".calpe-") { // of a run that was killed
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		r, err := receipt.Decode(data)
		if err != nil || r.Digest.String()+".receipt.json" != e.Name() || r.Acknowledgement == nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		at[r.Index] = calpe.Commit(r.Digest, r.Salt)
		if r.Index%101 == 0 { // a signature is dear
			if _, err := receipt.VerifyAcknowledged(calpe.Entry{Index: r.Index, Commitment: at[r.Index]}, []byte(r.Acknowledgement.Note), r.Acknowledgement.Path, d.identity); err != nil {
				t.Fatalf("%s: %v", e.Name(), err)
			}
		}
	}
	if len(at) != n {
		t.Errorf("%d receipts with an index of their own, want %d", len(at), n)
	}
	rows := d.rows()
	size, err := rows.NextIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = rows.ReadEntries(t.Context(), 0, size, func(first uint64, commitments []calpe.Commitment) error {
		for j, c := range commitments {
			if want, mine := at[first+uint64(j)]; mine && c != want {
				return fmt.Errorf("entry %d isn't that of its receipt", first+uint64(j))
			}
			delete(at, first+uint64(j))
		}
		return nil
	})
	if err != nil || len(at) > 0 {
		t.Errorf("%d receipts are for entries that aren't there; %v", len(at), err)
	}
}

// TestClientThatReadsNothingHoldsNothing: a client sends a long stream and takes
// no answer. Meanwhile no transaction is open, the log is sealed, and others are
// served.
func TestClientThatReadsNothingHoldsNothing(t *testing.T) {
	d := deploy(t)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	other := strings.TrimSpace(d.must("token", "create", "--owner", "somebody-else"))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/commitments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n", d.token)
	var lines bytes.Buffer
	for i := range uint64(8192) { // the answer to a line is far longer than the line
		fmt.Fprintf(&lines, "{\"commitment\":\"%s\"}\n", streamedCommitment(6, i))
	}
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", lines.Len(), lines.Bytes())
	sent := 0
	for ; sent < 1000; sent++ {
		if err := conn.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(chunk); err != nil { // the server takes no more, or has closed
			break
		}
	}
	if sent == 1000 {
		t.Fatal("the server took everything, and nobody its answers")
	}
	single := s.d.keyedRequests()[2]
	for i := range uint64(20) {
		s.records(other, fmt.Sprint("beside-", i), single, i)
	}
	st, err := s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log is sealed", func(ctx context.Context) error {
		now, err := s.status(ctx)
		if err == nil && now.Checkpointed < st.Next {
			err = fmt.Errorf("%+v", now)
		}
		return err
	})
	// A transaction that the client holds up would stay; those of the loops come and go.
	eventually(t, "no transaction is open", func(ctx context.Context) error {
		var open int
		err := d.connect().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE state LIKE 'idle in transaction%' AND application_name = 'calped'`).Scan(&open)
		if err == nil && open > 0 {
			err = fmt.Errorf("%d are", open)
		}
		return err
	})
	conn.Close()
	s.exitsCleanly()
}
