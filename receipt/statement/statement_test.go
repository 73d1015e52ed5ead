package statement

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	calpe "github.com/calpe/calpe"
	"github.com/google/go-cmp/cmp"
)

func TestSignedStatementRoundTrip(t *testing.T) {
	key, err := GenerateKey(rand.Reader, "municipality-of-calpe")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 9, 30, 0, 999, time.UTC)
	for _, body := range []Body{
		Agency{calpe.Hash{1}, "municipality-of-calpe", "Ayuntamiento de Calp", key.Verifier(), now},
		Certification{"municipality-of-calpe", calpe.Digest{2}, "birth certificate", "ref 1", "2026-11-21", "2027-01-01"},
		Certification{"municipality-of-calpe", calpe.Digest{2}, "birth certificate", "ref 1", "2026-11-21", ""},
		Recovery{calpe.Hash{1}, 0, 0, 7, 9, "restored", now},
	} {
		s, err := Sign(key, body)
		if err != nil {
			t.Fatalf("Sign(%+v): %v", body, err)
		}
		again, err := Parse(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Verify(key.Verifier()); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(again.Bytes(), s.Bytes()); d != "" || again.Digest() != s.Digest() {
			t.Error(d)
		}
		other, err := GenerateKey(rand.Reader, "municipality-of-calpe")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(other.Verifier()); !errors.Is(err, ErrSignature) {
			t.Errorf("another key: %v", err)
		}
		t.Log(string(s.Bytes()))
		for _, bad := range []string{
			strings.Replace(string(s.Bytes()), `"type":`, `"Type":`, 1),
			strings.Replace(string(s.Bytes()), `"type":`, `"type":"calpe/agency/v1","type":`, 1),
			strings.Replace(string(s.Bytes()), `"key":`, `"x":1,"key":`, 1),
			string(s.Bytes()) + "x",
			strings.Replace(string(s.Bytes()), `=="`, `=`+"\\n"+`="`, 1),
			strings.Replace(string(s.Bytes()), `"void_from":7`, `"void_from":7.0`, 1) + " x",
			strings.Replace(string(s.Bytes()), `,"rolled_from":0`, ``, 1) + " x",
		} {
			_, err := Parse([]byte(bad))
			if err == nil {
				t.Errorf("accepted %s", bad)
			}
			t.Log(err)
		}
	}
}
