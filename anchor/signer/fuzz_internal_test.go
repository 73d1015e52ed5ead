package signer

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/calpe/calpe"
)

// stub answers everything.
type stub struct{ asked int }

func (s *stub) Status(context.Context) (Status, error) { return Status{Network: calpe.Regtest}, nil }

func (s *stub) Sign(context.Context, Request) ([]byte, error) {
	s.asked++
	return nil, errors.New("refused \xff")
}

// FuzzCall: any bytes are answered, and only what is within the limits is judged.
func FuzzCall(f *testing.F) {
	f.Add([]byte(`{"method":"status"}`))
	f.Add([]byte(`{"method":"sign","sign":{"unsigned":"AAAA","previous":["AA=="],"proof":["0000000000000000000000000000000000000000000000000000000000000000"]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := &stub{}
		server := Server{cfg: ServerConfig{Signer: s}}
		a := server.answer(t.Context(), content)
		if (a.Error == nil) == (a.Status == nil && a.Raw == nil) {
			t.Fatalf("answer %+v", a)
		}
		if s.asked > 0 && !bytes.Contains(content, []byte("sign")) {
			t.Fatal("judged what wasn't asked")
		}
	})
}

// FuzzAnswer: any bytes are an answer or an error, never both.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"raw":"AAAA"}`))
	f.Add([]byte(`{"error":{"code":"cap","text":"no"}}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		if a, err := parseAnswer(out); err == nil && a.Error != nil && a.Error.err() == nil {
			t.Fatal("an error without an error")
		}
	})
}
