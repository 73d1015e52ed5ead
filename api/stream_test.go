package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
)

// TestStreamIsAnsweredWhileItComes sends a group only when the one before is
// answered, over HTTP/1.1 and HTTP/2: the answer doesn't wait for the body's end.
func TestStreamIsAnsweredWhileItComes(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, mediaType := range []string{"application/x-ndjson", "application/octet-stream"} {
			w := newWorld(t)
			w.config.Now = time.Now
			w.serve()
			server := httptest.NewUnstartedServer(w.server)
			server.EnableHTTP2 = proto == "HTTP/2.0"
			server.StartTLS()
			const groups = 2
			list, lines, packed := someCommitments(groups * api.StreamGroup)
			body := map[string][]byte{"application/x-ndjson": lines, "application/octet-stream": packed}[mediaType]
			part := len(body) / groups
			pr, pw := io.Pipe()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/commitments", pr)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer calpe_alice")
			r.Header.Set("Content-Type", mediaType)
			sent := make(chan error, 1)
			go func() { _, err := pw.Write(body[:part]); sent <- err }()
			a, err := server.Client().Do(r) // the header comes with the first group
			if err != nil || a.StatusCode != http.StatusCreated || a.Proto != proto {
				t.Fatalf("%v %v", a, err)
			}
			var all bytes.Buffer
			answers := bufio.NewReader(io.TeeReader(a.Body, &all))
			for i := range groups {
				awaitGroup(t, answers)
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
				if i == groups-1 {
					break
				}
				go func() { _, err := pw.Write(body[(i+1)*part : (i+2)*part]); sent <- err }()
			}
			pw.Close()
			if _, err := io.Copy(io.Discard, answers); err != nil {
				t.Fatal(err)
			}
			a.Body.Close()
			got := readStreamed(t, all.Bytes())
			if got.Recorded == nil || *got.Recorded != groups*api.StreamGroup {
				t.Errorf("%s %s: %+v", proto, mediaType, got.Error)
			}
			w.wantGroups(list, got.Groups)
			server.Close()
		}
	}
}

// awaitGroup reads up to the next group's line.
func awaitGroup(t *testing.T, answers *bufio.Reader) {
	t.Helper()
	for {
		line, err := answers.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(line, []byte(`"acknowledgement"`)) {
			return
		}
	}
}

// openStream sends the head of a stream of unknown length, and a first chunk.
func openStream(t *testing.T, conn io.Writer, mediaType string) (send func([]byte) error) {
	t.Helper()
	send = func(data []byte) error {
		_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(data), data)
		return err
	}
	_, err := fmt.Fprintf(conn, "POST /v1/commitments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", mediaType)
	if err != nil {
		t.Fatal(err)
	}
	return send
}

// A client that sends and takes no answer holds nothing but its own request: of
// its groups only a few are recorded, none is held, and it is let go.
func TestClientThatReadsNoAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var inCommit atomic.Int32
		w.onCommit = func(intake.Commitments) error { inCommit.Add(1); return nil }
		w.config.Accounts.Uploads = 1
		conn := overPipes(t, w)()
		defer conn.Close()
		_, _, packed := someCommitments(api.StreamGroup)
		send := openStream(t, conn, "application/octet-stream")
		begun := time.Now()
		for send(packed) == nil { // until the server has closed the connection
		}
		if took := time.Since(begun); took > 5*time.Minute {
			t.Errorf("the connection was held for %v", took)
		}
		synctest.Wait()
		w.committing.Lock()
		recorded := len(w.entries) - 1
		w.committing.Unlock()
		if n := int(inCommit.Load()); n > 6 || recorded != n*api.StreamGroup {
			t.Errorf("%d groups, %d entries", n, recorded)
		}
		if a := w.stream("application/octet-stream", packed, "/v1/commitments"); a.status != 201 {
			t.Errorf("its place isn't free: %d %s", a.status, a.body)
		}
	})
}

// Each group must come in a time that is bounded, however fast the ones before
// came; what was answered stays.
func TestSlowStreams(t *testing.T) {
	t.Parallel()
	for name, drip := range map[string]time.Duration{"silence": 2 * time.Minute, "a byte now and then": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				conn := overPipes(t, w)()
				defer conn.Close()
				_, _, packed := someCommitments(api.StreamGroup)
				var sending sync.WaitGroup
				defer sending.Wait()
				sending.Go(func() {
					send := openStream(t, conn, "application/octet-stream")
					for range 20 { // far above the least rate
						if send(packed) != nil {
							return
						}
					}
					for send(packed[:1]) == nil {
						<-time.After(drip)
					}
				})
				begun := time.Now()
				answers := bufio.NewReader(conn)
				answer, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(answer.Body)
				if err != nil {
					t.Fatal(err)
				}
				if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
					t.Errorf("behind the answer: %s, %v", rest, err)
				}
				got := readStreamed(t, body)
				if got.Error == nil || got.Error.Code != string(calpe.CodeSlowClient) || got.Offset != 20*api.StreamGroup || len(got.Groups) != 20 {
					t.Errorf("%+v at %d after %d groups", got.Error, got.Offset, len(got.Groups))
				}
				if !strings.Contains(fmt.Sprint(got.Error), "nothing of this group was recorded") || time.Since(begun) > 2*time.Minute {
					t.Errorf("%+v after %v", got.Error, time.Since(begun))
				}
			})
		})
	}
}

// What follows a commitment that ends the stream is never taken for a request of
// its own, before and behind the first answer.
func TestBrokenStreamHidesNoRequest(t *testing.T) {
	t.Parallel()
	for name, groups := range map[string]int{"in the first group": 0, "in the second group": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				conn := overPipes(t, w)()
				defer conn.Close()
				_, lines, _ := someCommitments(api.StreamGroup)
				var sending sync.WaitGroup
				defer sending.Wait()
				sending.Go(func() {
					send := openStream(t, conn, "application/x-ndjson")
					for range groups {
						if send(lines) != nil {
							return
						}
					}
					_ = send([]byte("[]\n"))
					hidden := "POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\nContent-Length: 4\r\n\r\ndeed"
					for range 5 {
						_ = send([]byte(hidden))
						<-time.After(time.Second)
					}
				})
				answers := bufio.NewReader(conn)
				answer, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(answer.Body); err != nil || !bytes.Contains(body, fmt.Appendf(nil, "Line %d ", groups*api.StreamGroup+1)) {
					t.Errorf("%.300s %v", body, err)
				}
				if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
					t.Errorf("behind the answer: %s, %v", rest, err)
				}
				if len(w.documents) > 0 {
					t.Error("a part of the body was taken for a request")
				}
			})
		})
	}
}

// What the server takes for a group isn't the client's slowness.
func TestSlowServerIsNotASlowClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.onCommit = func(intake.Commitments) error { <-time.After(25 * time.Second); return nil }
		conn := overPipes(t, w)()
		defer conn.Close()
		_, _, packed := someCommitments(api.StreamGroup)
		go func() {
			send := openStream(t, conn, "application/octet-stream")
			for range 20 {
				if err := send(packed); err != nil {
					t.Error(err)
					return
				}
			}
			io.WriteString(conn, "0\r\n\r\n")
		}()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := readStreamed(t, body); got.Recorded == nil || *got.Recorded != 20*api.StreamGroup {
			t.Errorf("%+v", got.Error)
		}
	})
}

// A group that fails ends the stream with its error; groups before it stay.
func TestStreamEndsWithAFailure(t *testing.T) {
	w := newWorld(t)
	w.onCommit = func(c intake.Commitments) error {
		if c.Offset < 2*api.StreamGroup {
			return nil
		}
		return &calpe.Error{Code: calpe.CodeUnavailable, Message: "Refused.", Err: errors.New("cause")}
	}
	_, _, packed := someCommitments(4 * api.StreamGroup)
	a := w.stream("application/octet-stream", packed[:2*32*api.StreamGroup], "/v1/commitments", "Idempotency-Key", "k")
	if a.status != 201 {
		t.Fatal(a.status)
	}
	a = w.stream("application/octet-stream", packed, "/v1/commitments", "Idempotency-Key", "k2")
	got := readStreamed(t, a.body)
	if got.Error == nil || got.Error.Code != string(calpe.CodeUnavailable) || got.RetryIn == 0 || got.Offset != 2*api.StreamGroup || len(got.Groups) != 2 {
		t.Errorf("%d %+v at %d", a.status, got.Error, got.Offset)
	}
	var p struct{ Type, Title string }
	last := a.body[bytes.LastIndexByte(bytes.TrimSpace(a.body), '\n')+1:]
	if err := json.Unmarshal(last, &struct{ Error any }{&p}); err != nil || p.Type != "urn:calpe:error:unavailable" {
		t.Errorf("%s: %v", last, err)
	}
	if a := w.stream("application/octet-stream", packed[2*32*api.StreamGroup:], fmt.Sprint("/v1/commitments?offset=", 2*api.StreamGroup), "Idempotency-Key", "k"); a.code(t) != string(calpe.CodeUnavailable) {
		t.Errorf("the first group of a request: %d %s", a.status, a.body)
	}
}

// accountWorld is one whose accounts have limits, in a bubble.
func accountWorld(t *testing.T, limits api.AccountLimits) *world {
	w := newWorld(t)
	w.config.Now, w.config.Accounts = time.Now, limits
	w.serve()
	w.token("calpe_bob", "bob", "documents", "commitments")
	return w
}

func TestAccountLimits(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]api.AccountLimits{
		"entries a second": {EntriesPerSecond: 3}, "entries a day": {EntriesPerDay: 3},
		"bytes a second": {BytesPerSecond: 96}, "bytes a day": {BytesPerDay: 96},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := accountWorld(t, limits)
				_, lines, packed := someCommitments(3)
				one := lines[:81]
				send := func(token string) answer {
					return w.as(token, "POST", "/v1/commitments", bytes.NewReader(one))
				}
				for range 3 {
					if a := send("calpe_alice"); a.status != 201 {
						t.Fatalf("%d %s", a.status, a.body)
					}
				}
				refused := map[string]answer{
					"one":  send("calpe_alice"),
					"many": w.stream("application/octet-stream", packed, "/v1/commitments"),
					"file": w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed")),
				}
				for what, a := range refused {
					if a.code(t) != string(calpe.CodeTooManyRequests) || !strings.Contains(string(a.body), name) || a.header.Get("Retry-After") == "" {
						t.Errorf("%s: %v %s", what, a.header, a.body)
					}
				}
				if a := send("calpe_bob"); a.status != 201 {
					t.Errorf("another account: %d %s", a.status, a.body)
				}
				after, err := time.ParseDuration(refused["one"].header.Get("Retry-After") + "s")
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(after)
				if a := send("calpe_alice"); a.status != 201 {
					t.Errorf("after %v: %d %s", after, a.status, a.body)
				}
			})
		})
	}
}

// A stream waits for its account's rate, and is told to come back for a quota.
func TestStreamsOfLimitedAccounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 4 * api.StreamGroup
		_, _, packed := someCommitments(n)
		w := accountWorld(t, api.AccountLimits{EntriesPerSecond: api.StreamGroup / 4})
		begun := time.Now()
		a := w.stream("application/octet-stream", packed, "/v1/commitments")
		if got := readStreamed(t, a.body); got.Recorded == nil || *got.Recorded != n || time.Since(begun) < 11*time.Second {
			t.Errorf("within %v: %+v", time.Since(begun), got.Error)
		}
		w = accountWorld(t, api.AccountLimits{EntriesPerDay: 2 * api.StreamGroup})
		a = w.stream("application/octet-stream", packed, "/v1/commitments", "Idempotency-Key", "k")
		got := readStreamed(t, a.body)
		if got.Error == nil || got.Error.Code != string(calpe.CodeTooManyRequests) || got.RetryIn < 10 || got.Offset != 2*api.StreamGroup {
			t.Fatalf("%+v at %d, in %d s", got.Error, got.Offset, got.RetryIn)
		}
		<-time.After(time.Duration(got.RetryIn) * time.Second)
		a = w.stream("application/octet-stream", packed[32*2*api.StreamGroup:32*3*api.StreamGroup], fmt.Sprint("/v1/commitments?offset=", 2*api.StreamGroup), "Idempotency-Key", "k")
		if got := readStreamed(t, a.body); got.Recorded == nil || *got.Recorded != 3*api.StreamGroup {
			t.Errorf("on the next day: %d %s", a.status, a.body)
		}
	})
}

// FuzzStream: whatever comes, each commitment is answered or an error says where
// to go on, and the log holds what was answered.
func FuzzStream(f *testing.F) {
	_, lines, packed := someCommitments(3)
	f.Add(lines, true)
	f.Add(packed, false)
	f.Add(append(bytes.Clone(lines), "{}\n"...), true)
	f.Add(packed[:50], false)
	f.Add([]byte("\n\r\n{\"commitment\":null}"), true)
	f.Fuzz(func(t *testing.T, body []byte, ndjson bool) {
		w := newWorld(t)
		mediaType := "application/octet-stream"
		if ndjson {
			mediaType = "application/x-ndjson"
		}
		a := w.stream(mediaType, body, "/v1/commitments")
		if a.status == 500 || a.status == 201 && !ndjson && len(body)%32 != 0 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		recorded := uint64(0)
		if a.status == 201 {
			got := readStreamed(t, a.body)
			if got.Recorded == nil {
				t.Fatalf("%s", a.body)
			}
			recorded = *got.Recorded
		}
		if recorded != uint64(len(w.entries)-1) {
			t.Errorf("%d recorded, the log has %d", recorded, len(w.entries)-1)
		}
	})
}
