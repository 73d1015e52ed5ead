package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	calpe "github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// testKey is a key that is the same in every run: its seed is the hash of its name.
func testKey(t testing.TB, name string) statement.Key {
	t.Helper()
	seed := sha256.Sum256([]byte("calpe test key " + name))
	public := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	id := sha256.Sum256(slices.Concat([]byte(name), []byte{'\n', 1}, public))
	secret := base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...))
	k, err := statement.ParseKey(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id[:4], secret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testIdentity(t testing.TB, origin string) Identity {
	id := Identity{
		Origin: origin, Network: calpe.Regtest, Genesis: calpe.BlockHash{1},
		CheckpointKeys:      []string{testKey(t, origin).Verifier()},
		AcknowledgementKeys: []string{testKey(t, AcknowledgementKeyName(origin)).Verifier()},
		StatementKeys:       []string{testKey(t, StatementKeyName(origin)).Verifier()},
	}
	if err := id.Validate(); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentityRoundTrip(t *testing.T) {
	id := testIdentity(t, "log.calpe.example")
	got, err := ParseIdentity(id.Canonical())
	if err != nil || got.Hash() != id.Hash() {
		t.Fatal(err)
	}
	t.Logf("%s", id.Canonical())
	msg, err := SignCheckpoint(testKey(t, id.Origin), id.Origin, 5, calpe.Hash{3})
	if err != nil {
		t.Fatal(err)
	}
	cp, err := OpenCheckpoint(msg, id)
	t.Logf("%s %v %v", msg, cp, err)
}
