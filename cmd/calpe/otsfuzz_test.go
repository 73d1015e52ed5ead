package main

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/receipt/ots"
)

// Whatever a calendar answers: no panic, a line that a terminal can show, or a
// file that is written as it is read, and still has what it had.
func FuzzCalendarAnswer(f *testing.F) {
	message := bytes.Repeat([]byte{7}, 44)
	const uri = "https://a.calendar.opentimestamps.org"
	c := &fakeCalendar{t: f}
	f.Add(200, c.rest(message, "salt", 5))
	f.Add(200, []byte("\xf0\x01x\x08\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x05\x04evil"))
	f.Add(200, bytes.Repeat([]byte("\xff\x08"), 200))
	f.Add(404, []byte("Timestamped by transaction ab; waiting for 3 confirmations"))
	f.Add(404, []byte("\x1b[2J\nb"))
	f.Add(302, []byte(""))
	pending, err := ots.PendingAt(uri)
	if err != nil {
		f.Fatal(err)
	}
	waiting, err := ots.NewTimestamp(message, nil, pending)
	if err != nil {
		f.Fatal(err)
	}
	ops := []ots.Op{{Tag: ots.Append, Arg: "nonce"}, {Tag: ots.Prepend, Arg: "p"}}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		client := calendar.New(calendar.Config{Transport: oneAnswer{status, "text/plain", body}, Timeout: time.Minute})
		check := func(got ots.Timestamp, err error) {
			if err != nil {
				if text := clean(err.Error()); strings.ContainsAny(text, "\n\x1b") || len(text) > 2000 {
					t.Errorf("says %q", text)
				}
				return
			}
			data, err := got.Serialize()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ots.ParseTimestamp(got.Message(), data); err != nil && len(data) <= ots.MaxAnswer {
				t.Errorf("what was taken over can't be read: %v", err)
			}
		}
		base := &url.URL{Scheme: "https", Host: "a.calendar.opentimestamps.org"}
		answer, err := client.Complete(t.Context(), base, message)
		if err == nil {
			answer, err = waiting.Upgrade(answer)
			if err == nil && (len(blocksOf(answer)) == 0 || !kept(answer, pending)) {
				t.Error("an answer took away, or gave nothing")
			}
		}
		check(answer, err)
		promise, err := client.Submit(t.Context(), base, append([]byte("p"), append(message, "nonce"...)...))
		if err == nil {
			promise, err = promise.From(message, ops)
			if err == nil && len(pendingAt(promise)) == 0 {
				t.Error("a promise that nobody keeps was taken")
			}
		}
		check(promise, err)
	})
}

func kept(t ots.Timestamp, want ots.Attestation) bool {
	for _, a := range t.All() {
		if a == want {
			return true
		}
	}
	return false
}

// Whatever lies in a file: it is shown in printable characters or refused, and a
// verdict is never that it holds for a document of which nothing is known.
func FuzzOTSFile(f *testing.F) {
	for _, name := range []string{"hello-world.txt.ots", "hello-world.txt"} {
		data, err := os.ReadFile(filepath.Join("testdata", "ots", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	headers := filepath.Join(f.TempDir(), "headers.bin")
	if err := os.WriteFile(headers, newChain(f).file(), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		a := &app{System: System{Stdin: strings.NewReader(""), Stdout: &out}}
		verify := otsVerifyCommand{chainSource: chainSource{Headers: headers}, Depth: 1, File: "-", Proof: "a.ots"}
		if err := verify.verify(t.Context(), a, data); exitCode(err) != exitRefuted && exitCode(err) != exitNotYet {
			t.Errorf("a file about nothing: %v: %s", err, out.String())
		}
		if file, err := ots.Parse(data); err == nil {
			info := otsInfoCommand{File: "a.ots"}
			if err := info.printText(a, file); err != nil {
				t.Error(err)
			}
			if data, err := json.Marshal(infoOf(file)); err != nil || bytes.ContainsAny(data, "\x1b\n") {
				t.Errorf("%q, %v", data, err)
			}
		}
		if strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && (r < ' ' || r == 0x7f) }) {
			t.Errorf("prints %q", out.String())
		}
	})
}
