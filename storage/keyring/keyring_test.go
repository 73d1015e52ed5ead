package keyring_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe/storage/keyring"
	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func newRing(t *testing.T) (*keyring.Ring, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := keyring.Create(path, now); err != nil {
		t.Fatal(err)
	}
	return load(t, path), path
}

func load(t *testing.T, path string) *keyring.Ring {
	t.Helper()
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestWrapBindsDocumentAndKey(t *testing.T) {
	ring, _ := newRing(t)
	other, _ := newRing(t)
	key, wrapped, err := ring.NewDataKey("doc-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(wrapped.Bytes) != keyring.WrappedSize || wrapped.KeyID != ring.Primary() {
		t.Fatalf("wrapped has %d bytes under %q", len(wrapped.Bytes), wrapped.KeyID)
	}
	got, err := ring.Unwrap("doc-1", wrapped)
	if err != nil || got.Content() != key.Content() || got.Metadata() != key.Metadata() {
		t.Fatalf("unwrap gave another key, err %v", err)
	}
	flipped := bytes.Clone(wrapped.Bytes)
	flipped[len(flipped)-1] ^= 1
	for _, tt := range []struct {
		name     string
		ring     *keyring.Ring
		document string
		wrapped  keyring.Wrapped
		want     error
	}{
		{"another document", ring, "doc-2", wrapped, keyring.ErrAuthentication},
		{"a prefix of the id", ring, "doc-", wrapped, keyring.ErrAuthentication},
		{"changed", ring, "doc-1", keyring.Wrapped{KeyID: wrapped.KeyID, Bytes: flipped}, keyring.ErrAuthentication},
		{"cut", ring, "doc-1", keyring.Wrapped{KeyID: wrapped.KeyID, Bytes: flipped[:59]}, keyring.ErrAuthentication},
		{"empty", ring, "doc-1", keyring.Wrapped{KeyID: wrapped.KeyID}, keyring.ErrAuthentication},
		{"another ring", other, "doc-1", wrapped, keyring.ErrUnknownKey},
		{"another ring's key id", other, "doc-1", keyring.Wrapped{KeyID: other.Primary(), Bytes: wrapped.Bytes}, keyring.ErrAuthentication},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.ring.Unwrap(tt.document, tt.wrapped)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if got != (keyring.DataKey{}) {
				t.Error("a failed unwrap returned a key")
			}
		})
	}
	for _, err := range []error{
		second(ring.Wrap("", key)), second(ring.Unwrap("", wrapped)), second(key.Seal("", nil)), second(key.Open("", nil)),
	} {
		if err == nil {
			t.Error("an empty document id was accepted")
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestKeysAreFresh(t *testing.T) {
	ring, _ := newRing(t)
	seen := map[string]bool{}
	for range 64 {
		key, wrapped, err := ring.NewDataKey("doc")
		if err != nil {
			t.Fatal(err)
		}
		content, metadata := key.Content(), key.Metadata()
		for _, b := range [][]byte{content[:], metadata[:], wrapped.Bytes, wrapped.Bytes[:12]} {
			if seen[string(b)] {
				t.Fatal("a key, nonce or wrapped key came twice")
			}
			seen[string(b)] = true
		}
	}
}

// The sub-keys are frozen: this computes them from RFC 5869 and the strings as
// written here, not from the package's own constants.
func TestSubKeys(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	text := fmt.Sprintf(`{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":%q}]}`,
		base64.StdEncoding.EncodeToString(secret))
	ring, err := keyring.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := ring.NewDataKey("doc")
	if err != nil {
		t.Fatal(err)
	}
	raw := key.Reveal()
	for info, got := range map[string][keyring.KeySize]byte{
		"calpe/v1 document content":  key.Content(),
		"calpe/v1 document metadata": key.Metadata(),
	} {
		want, err := hkdf.Key(sha256.New, raw[:], nil, info, 32)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:], want) {
			t.Errorf("sub-key %q is not HKDF-SHA256 of the data key", info)
		}
	}
	root, err := hkdf.Key(sha256.New, secret, nil, "calpe/v1 tag digest", 32)
	if err != nil {
		t.Fatal(err)
	}
	if got := ring.Tag("digest", []byte("x")); !bytes.Equal(got, hmacSHA256(root, []byte("x"))) {
		t.Errorf("tag %x", got)
	}
}

// hmacSHA256 is RFC 2104 written out, as an independent reference.
func hmacSHA256(key, data []byte) []byte {
	inner, outer := bytes.Repeat([]byte{0x36}, 64), bytes.Repeat([]byte{0x5c}, 64)
	for i, b := range key {
		inner[i] ^= b
		outer[i] ^= b
	}
	h := sha256.Sum256(append(inner, data...))
	sum := sha256.Sum256(append(outer, h[:]...))
	return sum[:]
}

func TestSeal(t *testing.T) {
	ring, _ := newRing(t)
	key, _, _ := ring.NewDataKey("doc-1")
	other, _, _ := ring.NewDataKey("doc-1")
	for _, plain := range []string{"", "x", strings.Repeat("name", 1000)} {
		sealed, err := key.Seal("doc-1", []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len(plain)+keyring.SealOverhead {
			t.Errorf("%d bytes sealed as %d", len(plain), len(sealed))
		}
		got, err := key.Open("doc-1", sealed)
		if err != nil || string(got) != plain {
			t.Fatalf("opened %q, %v; want %q", got, err, plain)
		}
		for i := range sealed {
			if i > 64 {
				break
			}
			changed := bytes.Clone(sealed)
			changed[i] ^= 0x80
			if got, err := key.Open("doc-1", changed); !errors.Is(err, keyring.ErrAuthentication) || got != nil {
				t.Fatalf("byte %d changed: %q, %v", i, got, err)
			}
			if _, err := key.Open("doc-1", sealed[:i]); !errors.Is(err, keyring.ErrAuthentication) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
		if _, err := key.Open("doc-2", sealed); !errors.Is(err, keyring.ErrAuthentication) {
			t.Errorf("opened for another document: %v", err)
		}
		if _, err := other.Open("doc-1", sealed); !errors.Is(err, keyring.ErrAuthentication) {
			t.Errorf("opened with another key: %v", err)
		}
	}
}

func TestRotateKeepsOldKeysReadable(t *testing.T) {
	first, path := newRing(t)
	key, wrapped, _ := first.NewDataKey("doc")
	tag := first.Tag("digest", []byte("d"))

	for i := range 3 {
		before := load(t, path).Primary()
		if err := keyring.Rotate(path, now.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
		ring := load(t, path)
		if ring.Primary() == before {
			t.Fatal("the primary is the same after a rotation")
		}
		if got, err := ring.Unwrap("doc", wrapped); err != nil || got != key {
			t.Fatalf("after a rotation: %v", err)
		}
		if !bytes.Equal(ring.Tag("digest", []byte("d")), tag) {
			t.Fatal("a rotation changed a tag")
		}
		moved, changed, err := ring.Rewrap("doc", wrapped)
		if err != nil || !changed || moved.KeyID != ring.Primary() {
			t.Fatalf("rewrap: %v, changed %v, key %q", err, changed, moved.KeyID)
		}
		if got, err := ring.Unwrap("doc", moved); err != nil || got != key {
			t.Fatalf("after a rewrap: %v", err)
		}
		again, changed, err := ring.Rewrap("doc", moved)
		if err != nil || changed {
			t.Fatalf("second rewrap: %v, changed %v", err, changed)
		}
		if diff := cmp.Diff(moved, again); diff != "" {
			t.Error(diff)
		}
	}
	if bytes.Equal(first.Tag("digest", []byte("d")), first.Tag("request", []byte("d"))) {
		t.Error("two purposes share a tag")
	}
	if _, _, err := first.Rewrap("doc-2", keyring.Wrapped{KeyID: "gone"}); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("rewrap of an unknown key: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v after rotations", info.Mode())
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	ring, path := newRing(t)
	if err := keyring.Create(path, now); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want one that is fs.ErrExist", err)
	}
	if load(t, path).Primary() != ring.Primary() {
		t.Error("the ring was overwritten")
	}
}

// However many rotate at once, every rotation that reported success has its key
// in the file.
func TestRotateRace(t *testing.T) {
	_, path := newRing(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range 16 {
		wg.Go(func() {
			if keyring.Rotate(path, now) == nil {
				mu.Lock()
				defer mu.Unlock()
				done++
			}
		})
	}
	wg.Wait()
	if got := countKeys(t, path); got != done+1 || done == 0 {
		t.Errorf("%d rotations succeeded, the file has %d keys", done, got)
	}
}

func countKeys(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Keys []any }
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	return len(f.Keys)
}

func TestRotateAfterInterruption(t *testing.T) {
	ring, path := newRing(t)
	if err := os.WriteFile(path+".new", []byte("half a f"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := keyring.Rotate(path, now)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("error %v", err)
	}
	if load(t, path).Primary() != ring.Primary() {
		t.Error("the ring changed")
	}
	if _, err := os.Stat(path + ".new"); err != nil {
		t.Error("somebody else's file was removed")
	}
}

func TestRotateRefusesBrokenRing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := os.WriteFile(path, []byte(`{"primary":"a","keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keyring.Rotate(path, now); err == nil {
		t.Fatal("rotated a ring without keys")
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left a file behind: %v", err)
	}
}

func TestLoadRefusesReadableByOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // mode bits mean nothing there
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o666} {
		_, path := newRing(t)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Load(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %v: %v", mode, err)
		}
		if err := keyring.Rotate(path, now); err == nil {
			t.Errorf("rotated a ring of mode %v", mode)
		}
	}
	if _, err := keyring.Load(t.TempDir()); err == nil {
		t.Error("loaded a directory")
	}
	if _, err := keyring.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

const goodKey = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="

func TestParseIsStrict(t *testing.T) {
	key := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"created":"2026-01-02T03:04:05Z","key":%q}`, id, goodKey)
	}
	if _, err := keyring.Parse([]byte(`{"primary":"b","keys":[` + key("a") + `,` + key("b") + `]}`)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "JSON"},
		{"cut", `{"primary":"a","keys":[` + key("a"), "JSON"},
		{"two values", `{"primary":"a","keys":[` + key("a") + `]}{}`, "JSON"},
		{"unknown member", `{"primary":"a","x":1,"keys":[` + key("a") + `]}`, "/x"},
		{"duplicate member", `{"primary":"a","primary":"a","keys":[` + key("a") + `]}`, "/primary"},
		{"case-folded member", `{"Primary":"a","keys":[` + key("a") + `]}`, "/Primary"},
		{"no primary", `{"keys":[` + key("a") + `]}`, "primary"},
		{"primary elsewhere", `{"primary":"b","keys":[` + key("a") + `]}`, "primary"},
		{"no keys", `{"primary":"a","keys":[]}`, "0 keys"},
		{"null keys", `{"primary":"a","keys":null}`, "0 keys"},
		{"id twice", `{"primary":"a","keys":[` + key("a") + `,` + key("a") + `]}`, "keys[1]"},
		{"empty id", `{"primary":"","keys":[` + key("") + `]}`, "keys[0]"},
		{"upper-case id", `{"primary":"A","keys":[` + key("A") + `]}`, "keys[0]"},
		{"long id", `{"primary":"a","keys":[` + key(strings.Repeat("a", 65)) + `]}`, "keys[0]"},
		{"no time", `{"primary":"a","keys":[{"id":"a","key":"` + goodKey + `"}]}`, "created"},
		{"bad time", `{"primary":"a","keys":[{"id":"a","created":"yesterday","key":"` + goodKey + `"}]}`, "created"},
		{"no key", `{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z"}]}`, "0 bytes"},
		{"short key", `{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":"AQEB"}]}`, "3 bytes"},
		{"not base64", `{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":"c2VjcmV0IQ*"}]}`, "/keys/0/key"},
		{"zero key", `{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}`, "zero"},
		{"too long", strings.Repeat(" ", 1<<20+1), "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := keyring.Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			for _, secret := range []string{goodKey, "c2VjcmV0IQ", "AQEB"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows key material: %v", err)
				}
			}
		})
	}
}

func TestNothingPrintsAKey(t *testing.T) {
	ring, path := newRing(t)
	key, _, _ := ring.NewDataKey("doc")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "pointer", &key, "ring", ring)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "in", struct{ K keyring.DataKey }{key}, "ring", ring)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U"} {
		fmt.Fprintf(&log, verb+verb+verb+verb, key, &key, ring, struct{ K keyring.DataKey }{key})
	}
	data, err := json.Marshal(map[string]any{"key": key, "ring": ring})
	if err != nil {
		t.Fatal(err)
	}
	log.Write(data)

	text := strings.ToLower(log.String())
	raw := key.Reveal()
	var decimals strings.Builder
	for _, b := range raw {
		fmt.Fprintf(&decimals, "%d ", b)
	}
	for _, leak := range []string{
		fmt.Sprintf("%x", raw), string(raw[:]), decimals.String()[:24],
		strings.ToLower(base64.StdEncoding.EncodeToString(raw[:]))[:20],
	} {
		if strings.Contains(text, leak) {
			t.Errorf("the key was printed, as %q", leak)
		}
	}
	if !strings.Contains(text, "[secret]") {
		t.Error("nothing was printed")
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, raw[:]) {
		t.Error("the data key is in the file")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":"` + goodKey + `"}]}`))
	f.Add([]byte(`{"primary":"a","keys":null}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := keyring.Parse(data)
		if err != nil {
			return
		}
		key, wrapped, err := ring.NewDataKey("doc")
		if err != nil {
			t.Fatalf("a ring that was accepted doesn't wrap: %v", err)
		}
		if got, err := ring.Unwrap("doc", wrapped); err != nil || got != key {
			t.Fatalf("a ring that was accepted doesn't unwrap: %v", err)
		}
	})
}

// What earlier versions stored must open for ever: a wrapped key, a sealed blob
// and a tag under the ring of fixedRing.
const (
	fixedWrapped = "75547c7f9cdb45e7e8a609b8539d334a2f037d215ac7b386333c3cfd02792af2a2d139310633e87923edd415e9f375f362f3fd0eadd719f1deac3f29"
	fixedSealed  = "62be647973b7233461b62b7e2871add44b92538d33c90b055fdaedb94efea1c6" // "name"
	fixedTag     = "4e3f42e7ed485d3a6501ba9c08f0e3e35d7efd5783c14da62537f5466f2ef88e" // of "x" for "digest"
	fixedKey     = "063bd0f7aa9185cf5b7bf1353673009438afae94a3dc81ad7d2446ec5d03b739"
)

func fixedRing(t testing.TB) (*keyring.Ring, []byte, []byte) {
	t.Helper()
	ring, err := keyring.Parse([]byte(`{"primary":"a","keys":[{"id":"a","created":"2026-01-02T03:04:05Z","key":"` + goodKey + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return ring, unhex(t, fixedWrapped), unhex(t, fixedSealed)
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStoredFormsAreFrozen(t *testing.T) {
	ring, wrapped, sealed := fixedRing(t)
	key, err := ring.Unwrap("doc", keyring.Wrapped{KeyID: "a", Bytes: wrapped})
	if err != nil {
		t.Fatal(err)
	}
	if raw := key.Reveal(); !bytes.Equal(raw[:], unhex(t, fixedKey)) {
		t.Errorf("data key %x", raw)
	}
	if got, err := key.Open("doc", sealed); err != nil || string(got) != "name" {
		t.Errorf("opened %q, %v", got, err)
	}
	if got := ring.Tag("digest", []byte("x")); !bytes.Equal(got, unhex(t, fixedTag)) {
		t.Errorf("tag %x", got)
	}
}

func FuzzOpen(f *testing.F) {
	ring, wrapped, sealed := fixedRing(f)
	key, err := ring.Unwrap("doc", keyring.Wrapped{KeyID: "a", Bytes: wrapped})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("doc", "a", wrapped)
	f.Add("doc", "a", sealed)
	f.Add("", "", []byte{})
	f.Fuzz(func(t *testing.T, id, keyID string, data []byte) {
		_, err := ring.Unwrap(id, keyring.Wrapped{KeyID: keyID, Bytes: data})
		if err == nil && (keyID != "a" || id != "doc" || !bytes.Equal(data, wrapped)) {
			t.Fatal("unwrapped what was never wrapped")
		}
		if _, err := key.Open(id, data); err == nil && (id != "doc" || !bytes.Equal(data, sealed)) {
			t.Fatal("opened what was never sealed")
		}
	})
}
