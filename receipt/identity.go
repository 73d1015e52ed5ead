package receipt

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"
)

const (
	// IdentityType is the member "type" of a log identity.
	IdentityType = "calpe/identity/v1"
	// MaxIdentitySize is the largest identity in bytes, as it is written.
	MaxIdentitySize = 16384

	maxKeys = 8
)

// calendars is the member "first_outpoint" of a log that is not anchored by a
// chain of coins of its own.
const calendars = "calendars"

// Identity says whose log it is (docs/formats.md, "Log identity"). Its hash is
// the commitment of entry 0. A verifier pins it; it never changes.
type Identity struct {
	Origin        string // the log's name, see [CheckOrigin]
	Network       calpe.Network
	Genesis       calpe.BlockHash // of the network
	FirstOutpoint *calpe.Outpoint // first coin of the chain of anchors; nil means "calendars"

	// The vkeys that may sign, 1 to 8 each, named Origin,
	// Origin + "/acknowledgement" and Origin + "/statement".
	CheckpointKeys      []string
	AcknowledgementKeys []string
	StatementKeys       []string
}

// AcknowledgementKeyName is the name of the keys that sign acknowledgements of
// the log with that origin.
func AcknowledgementKeyName(origin string) string { return origin + "/acknowledgement" }

// StatementKeyName is the name of the keys that sign statements of the operator
// of the log with that origin.
func StatementKeyName(origin string) string { return origin + "/statement" }

type identityJSON struct {
	Type                string          `json:"type"`
	Origin              string          `json:"origin"`
	Network             calpe.Network   `json:"network"`
	Genesis             calpe.BlockHash `json:"genesis"`
	FirstOutpoint       string          `json:"first_outpoint"`
	CheckpointKeys      []string        `json:"checkpoint_keys"`
	AcknowledgementKeys []string        `json:"acknowledgement_keys"`
	StatementKeys       []string        `json:"statement_keys"`
}

// ParseIdentity reads an identity file, however it is spaced, and validates it.
func ParseIdentity(data []byte) (Identity, error) {
	if len(data) > MaxIdentitySize {
		return Identity{}, fmt.Errorf("log identity has %d bytes, more than %d", len(data), MaxIdentitySize)
	}
	var w identityJSON
	if err := statement.Decode(data, &w); err != nil {
		return Identity{}, fmt.Errorf("log identity: %w", err)
	}
	if w.Type != IdentityType {
		return Identity{}, fmt.Errorf("log identity has type %.64q, want %q", w.Type, IdentityType)
	}
	id := Identity{Origin: w.Origin, Network: w.Network, Genesis: w.Genesis,
		CheckpointKeys: w.CheckpointKeys, AcknowledgementKeys: w.AcknowledgementKeys, StatementKeys: w.StatementKeys}
	if w.FirstOutpoint != calendars {
		first, err := calpe.ParseOutpoint(w.FirstOutpoint)
		if err != nil {
			return Identity{}, fmt.Errorf("log identity: first_outpoint: %w", err)
		}
		id.FirstOutpoint = &first
	}
	return id, id.Validate()
}

// Validate checks every member, and names the one that is wrong.
func (id Identity) Validate() error {
	if err := id.validate(); err != nil {
		return fmt.Errorf("log identity: %w", err)
	}
	return nil
}

func (id Identity) validate() error {
	if err := CheckOrigin(id.Origin); err != nil {
		return err
	}
	if err := checkNetwork(id.Network, id.Genesis); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, list := range []struct {
		member, name string
		keys         []string
	}{
		{"checkpoint_keys", id.Origin, id.CheckpointKeys},
		{"acknowledgement_keys", AcknowledgementKeyName(id.Origin), id.AcknowledgementKeys},
		{"statement_keys", StatementKeyName(id.Origin), id.StatementKeys},
	} {
		if err := checkKeys(list.keys, list.name, seen); err != nil {
			return fmt.Errorf("%s: %w", list.member, err)
		}
	}
	return nil
}

// GenesisOf is the hash of the block that a network begins with.
func GenesisOf(network calpe.Network) (calpe.BlockHash, error) {
	params, err := headers.ParamsFor(network)
	if err != nil {
		return calpe.BlockHash{}, err
	}
	return doubleHash(params.Genesis[:]), nil
}

// checkNetwork demands a network with the block that it begins with.
func checkNetwork(network calpe.Network, genesis calpe.BlockHash) error {
	if n, err := calpe.ParseNetwork(string(network)); err != nil || n != network {
		return fmt.Errorf("network %.32q is not one that formats.md names", network)
	}
	want, err := GenesisOf(network)
	if err != nil {
		return err
	}
	if genesis != want {
		return fmt.Errorf("genesis is %s, that of %s is %s", genesis, network, want)
	}
	return nil
}

// checkKeys demands keys with that name, and that neither the public key nor
// the key id of one was seen before: a key that signs two kinds of thing, or an
// id that means two keys, would make a signature mean too much.
func checkKeys(keys []string, name string, seen map[string]bool) error {
	if len(keys) < 1 || len(keys) > maxKeys {
		return fmt.Errorf("has %d keys, want 1 to %d", len(keys), maxKeys)
	}
	for i, vkey := range keys {
		v, err := statement.ParseVerifierKey(vkey)
		if err != nil {
			return fmt.Errorf("key %d: %w", i, err)
		}
		if v.Name() != name {
			return fmt.Errorf("key %d is named %q, want %q", i, v.Name(), name)
		}
		public := vkey[len(statement.VerifierID(v)):]
		if seen[public] || seen[statement.VerifierID(v)] {
			return fmt.Errorf("key %d is there twice", i)
		}
		seen[public], seen[statement.VerifierID(v)] = true, true
	}
	return nil
}

// CheckOrigin allows the name of a log: a schema-less URL of 1 to 200 characters
// out of a-z0-9.-/.
func CheckOrigin(origin string) error {
	if len(origin) < 1 || len(origin) > 200 {
		return fmt.Errorf("origin has %d characters, want 1 to 200", len(origin))
	}
	for i := range len(origin) {
		if c := origin[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '/' {
			return fmt.Errorf("origin %q has a character that isn't one of a-z0-9.-/ at byte %d", origin, i)
		}
	}
	return nil
}

// Canonical is the identity as canonical JSON, without a trailing newline: the
// bytes that are hashed. It means something only for a valid identity.
func (id Identity) Canonical() []byte {
	w := identityJSON{IdentityType, id.Origin, id.Network, id.Genesis, calendars,
		slices.Clone(id.CheckpointKeys), slices.Clone(id.AcknowledgementKeys), slices.Clone(id.StatementKeys)}
	if id.FirstOutpoint != nil {
		w.FirstOutpoint = id.FirstOutpoint.String()
	}
	data, err := json.Marshal(w, jsontext.AllowInvalidUTF8(true))
	if err == nil {
		data, err = statement.Canonical(data)
	}
	if err != nil {
		// Strings, hashes and arrays of strings, with invalid UTF-8 replaced: all have a JSON form.
		panic(fmt.Sprintf("receipt: canonical form of a log identity: %v", err))
	}
	return data
}

// Hash is SHA-256 of [Identity.Canonical]: the name of the log in receipts,
// acknowledgements and statements.
func (id Identity) Hash() calpe.Hash { return sha256.Sum256(id.Canonical()) }

// Entry is entry 0 of the log: its commitment is [Identity.Hash], not salted.
func (id Identity) Entry() calpe.Entry { return calpe.Entry{Commitment: calpe.Commitment(id.Hash())} }

// CheckpointVerifiers are the keys that may sign a checkpoint.
func (id Identity) CheckpointVerifiers() (note.Verifiers, error) {
	return verifiers(id.CheckpointKeys)
}

// AcknowledgementVerifiers are the keys that may sign an acknowledgement.
func (id Identity) AcknowledgementVerifiers() (note.Verifiers, error) {
	return verifiers(id.AcknowledgementKeys)
}

func verifiers(vkeys []string) (note.Verifiers, error) {
	list := make([]note.Verifier, 0, len(vkeys))
	for _, vkey := range vkeys {
		v, err := statement.ParseVerifierKey(vkey)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}

// VerifyStatement checks that one of the statement keys signed s. An error with
// [statement.ErrSignature] in its chain says that none did.
func (id Identity) VerifyStatement(s statement.Signed) error {
	for _, vkey := range id.StatementKeys {
		if s.Verify(vkey) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: key %q is not a statement key of the log %q, or the signature is wrong",
		statement.ErrSignature, s.KeyID(), id.Origin)
}
