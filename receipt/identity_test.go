package receipt

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

func TestIdentityRoundTrip(t *testing.T) {
	id := newIdentity(t, testOrigin)
	calendar := id
	calendar.FirstOutpoint = nil
	for _, want := range []Identity{id, calendar} {
		text := string(want.Canonical())
		spaced := "\n " + strings.ReplaceAll(text, ",", " ,\r\n\t") + " \n"
		for _, data := range []string{text, spaced} {
			got, err := ParseIdentity([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("parsed (-want +got):\n%s", d)
			}
			if got.Hash() != calpe.Hash(sha256.Sum256([]byte(text))) {
				t.Errorf("hash of %q is %s", data, got.Hash())
			}
		}
	}
	if id.Hash() == calendar.Hash() {
		t.Error("two identities have one hash")
	}
	if e := id.Entry(); e.Index != 0 || calpe.Hash(e.Commitment) != id.Hash() {
		t.Errorf("entry 0 is %+v", e)
	}
}

func TestParseIdentityRefuses(t *testing.T) {
	id := newIdentity(t, testOrigin)
	text := string(id.Canonical())
	checkpoint, acknowledgement := id.CheckpointKeys[0], id.AcknowledgementKeys[0]
	tests := []struct{ name, old, replacement, want string }{
		{"type", "calpe/identity/v1", "calpe/identity/v2", "type"},
		{"missing member", `"network":"regtest",`, ``, `"/network" is missing`},
		{"unknown member", `{`, `{"name":"mine",`, `"/name"`},
		{"case-folded member", `"network"`, `"Network"`, `"/Network"`},
		{"duplicate member", `"network":"regtest",`, `"network":"regtest","network":"regtest",`, "duplicate"},
		{"network", `"regtest"`, `"reg"`, "network"},
		{"network by another name", `"regtest"`, `"main"`, "network"},
		{"genesis of another network", `"regtest"`, `"simnet"`, "genesis"},
		{"genesis", `"genesis":"0f91`, `"genesis":"0F91`, "/genesis"},
		{"origin empty", `"origin":"log.calpe.example"`, `"origin":""`, "origin"},
		{"origin with a scheme", `"origin":"log`, `"origin":"https://log`, "origin"},
		{"origin too long", `"origin":"log`, `"origin":"` + strings.Repeat("x", 200), "origin"},
		{"origin of other keys", `"origin":"log.calpe`, `"origin":"log.altea`, "checkpoint_keys"},
		{"first outpoint", `:1"`, `:01"`, "first_outpoint"},
		{"first outpoint without number", `:1"`, `"`, "first_outpoint"},
		{"no keys", `["` + checkpoint + `"]`, `[]`, "checkpoint_keys"},
		{"key as text", `["` + checkpoint + `"]`, `"` + checkpoint + `"`, "/checkpoint_keys"},
		{"key twice", `"` + checkpoint + `"`, `"` + checkpoint + `","` + checkpoint + `"`, "twice"},
		{"nine keys", `"` + checkpoint + `"`, `"` + checkpoint + strings.Repeat(`","`+checkpoint, 8) + `"`, "9 keys"},
		{"key with a changed id", checkpoint[:20], checkpoint[:19] + "x", "checkpoint_keys"},
		{"key of another kind", checkpoint, acknowledgement, "checkpoint_keys"},
		{"private key", checkpoint, testKey(t, testOrigin, "").Secret(), "checkpoint_keys"},
		{"trailing", `}`, `}}`, "follow"},
		{"too large", `{`, `{` + strings.Repeat(" ", MaxIdentitySize), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(text, tt.old) {
				t.Fatalf("the identity has no %q", tt.old)
			}
			_, err := ParseIdentity([]byte(strings.Replace(text, tt.old, tt.replacement, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want an error with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the error shows a private key: %v", err)
			}
		})
	}
	for n := range len(text) {
		if _, err := ParseIdentity([]byte(text[:n])); err == nil {
			t.Errorf("cut to %d of %d bytes it was accepted", n, len(text))
		}
	}
}

// TestOneKeyForTwoThings: the same public key under two names is refused.
func TestOneKeyForTwoThings(t *testing.T) {
	id := newIdentity(t, testOrigin)
	v := strings.SplitN(id.CheckpointKeys[0], "+", 3)
	same := renamedKey(t, v[2], StatementKeyName(testOrigin))
	id.StatementKeys = append(id.StatementKeys, same)
	if err := id.Validate(); err == nil || !strings.Contains(err.Error(), "statement_keys: key 2 is there twice") {
		t.Errorf("Validate: %v", err)
	}
}

// renamedKey is the vkey of the same public key under another name.
func renamedKey(t *testing.T, encoded, name string) string {
	t.Helper()
	public, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), public...))
	return fmt.Sprintf("%s+%x+%s", name, sum[:4], encoded)
}

func TestVerifyStatement(t *testing.T) {
	w := newWorld(t, testOrigin)
	for which, ok := range map[string]bool{"": true, "old": true, "forged": false} {
		s, err := statement.Sign(testKey(t, StatementKeyName(testOrigin), which), w.registration())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.id.VerifyStatement(s); ok != (err == nil) || !ok && !errors.Is(err, statement.ErrSignature) {
			t.Errorf("key %q: %v", which, err)
		}
	}
}

// TestCanonicalIsTotal: whatever is in an identity, hashing it doesn't panic.
func TestCanonicalIsTotal(t *testing.T) {
	id := Identity{Origin: "\xff\x00", CheckpointKeys: []string{"\xed\xa0\x80"}, StatementKeys: []string{}}
	if len(id.Canonical()) == 0 || id.Validate() == nil {
		t.Error("a wrong identity is valid or has no canonical form")
	}
}
