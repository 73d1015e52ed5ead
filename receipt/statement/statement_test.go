package statement

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/calpe/calpe"
)

// The key of the examples in the documentation of package note.
const (
	noteSecret   = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
	noteVerifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
)

func generate(tb testing.TB, name string) Key {
	tb.Helper()
	k, err := GenerateKey(rand.Reader, name)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

var testTime = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

// bodies are one of each type, with the members that the table edits.
func bodies(key Key) map[string]Body {
	return map[string]Body{
		"agency":        Agency{calpe.Hash{1}, "registry-of-calpe", "Registro Civil de Calp", key.Verifier(), testTime},
		"certification": Certification{"registry-of-calpe", calpe.Digest{2}, "birth certificate", "REG-2026-000123", "2026-11-20", "2036-11-19"},
		"endless":       Certification{"registry-of-calpe", calpe.Digest{2}, "birth certificate", "REG-2026-000123", "2026-11-20", ""},
		"recovery":      Recovery{calpe.Hash{1}, 5, 7, 9, 265, "Restored.", testTime},
		"break": Break{calpe.Hash{1}, calpe.Outpoint{TxID: calpe.BlockHash{2}, Vout: 1}, calpe.BlockHash{3}, calpe.BlockHash{4}, 900_000,
			calpe.BlockHash{2}, 77, calpe.Hash{5}, calpe.Outpoint{TxID: calpe.BlockHash{6}}, "The key was stolen.", testTime},
		"break before the first anchor": Break{Log: calpe.Hash{1}, Coin: calpe.Outpoint{TxID: calpe.BlockHash{2}}, SpentBy: calpe.BlockHash{3},
			Block: calpe.BlockHash{4}, First: calpe.Outpoint{TxID: calpe.BlockHash{6}}, Reason: "A mistake.", Time: testTime},
	}
}

func TestSignAndParse(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	for name, body := range bodies(key) {
		t.Run(name, func(t *testing.T) {
			signed, err := Sign(key, body)
			if err != nil {
				t.Fatal(err)
			}
			text := string(signed.Bytes())
			spaced := "\n" + strings.ReplaceAll(text, ",", "\t ,\r\n") + " "
			for _, data := range []string{text, spaced} {
				got, err := Parse([]byte(data))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(body, got.Body()); d != "" {
					t.Errorf("body (-want +got):\n%s", d)
				}
				if string(got.Bytes()) != text || got.Digest() != calpe.Digest(sha256.Sum256([]byte(text))) {
					t.Errorf("canonical form of %s is %s", data, got.Bytes())
				}
				if err := got.Verify(key.Verifier()); err != nil || got.KeyID() != key.ID() {
					t.Errorf("key %s: %v", got.KeyID(), err)
				}
			}
		})
	}
}

// TestSignedBytes holds the signature to the words of formats.md, by hand.
func TestSignedBytes(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	signed, err := Sign(key, Certification{"registry-of-calpe", calpe.Digest{2}, `a "b" é`, "\U0001f58b", "2026-11-20", ""})
	if err != nil {
		t.Fatal(err)
	}
	text := `{"agency":"registry-of-calpe","digest":"02` + strings.Repeat("00", 31) +
		`","document_type":"a \"b\" é","issued":"2026-11-20","subject":"🖋","type":"calpe/certification/v1"}`
	v, err := note.NewVerifier(key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	var envelope struct{ Signature []byte }
	if err := json.Unmarshal(signed.Bytes(), &envelope); err != nil {
		t.Fatal(err)
	}
	if !v.Verify([]byte("calpe/statement/v1\n"+text), envelope.Signature) {
		t.Error("the signature is of something else")
	}
	want := fmt.Sprintf(`{"key":"%s","signature":"%s","statement":%s}`, key.ID(), base64.StdEncoding.EncodeToString(envelope.Signature), text)
	if d := cmp.Diff(want, string(signed.Bytes())); d != "" {
		t.Errorf("canonical form (-want +got):\n%s", d)
	}
}

func TestSignDropsFractions(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	at := time.Date(2026, 11, 21, 10, 30, 0, 999_999_999, time.FixedZone("", 3600))
	signed, err := Sign(key, Recovery{Reason: "r", Time: at})
	if err != nil {
		t.Fatal(err)
	}
	if got := signed.Body().(Recovery).Time; got != testTime {
		t.Errorf("time %v, want %v", got, testTime)
	}
}

func TestVerifyRefuses(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	signed, err := Sign(key, bodies(key)["certification"])
	if err != nil {
		t.Fatal(err)
	}
	if err := signed.Verify(generate(t, "registry-of-calpe").Verifier()); !errors.Is(err, ErrSignature) {
		t.Errorf("another key of that name: %v", err)
	}
	if err := signed.Verify("nothing"); err == nil || errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	changed, err := Parse([]byte(strings.Replace(string(signed.Bytes()), "000123", "000124", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := changed.Verify(key.Verifier()); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed statement: %v", err)
	}
	if err := (Signed{}).Verify(key.Verifier()); !errors.Is(err, ErrSignature) {
		t.Errorf("no statement: %v", err)
	}
}

// failingSigner fails, or gives a signature that can't be one.
type failingSigner struct {
	note.Signer
	signature []byte
	err       error
}

func (s failingSigner) Sign([]byte) ([]byte, error) { return s.signature, s.err }

func TestSignRefuses(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	body := bodies(key)["certification"]
	broken := errors.New("the token is gone")
	if _, err := Sign(failingSigner{key, nil, broken}, body); !errors.Is(err, broken) {
		t.Errorf("a failing signer: %v", err)
	}
	if _, err := Sign(failingSigner{key, make([]byte, 63), nil}, body); err == nil {
		t.Error("a signature of 63 bytes was accepted")
	}
	if _, err := Sign(Key{}, body); err == nil {
		t.Error("the zero key signed")
	}
	if _, err := Sign(key, Certification{}); err == nil {
		t.Error("an empty statement was signed")
	}
}

func TestValidate(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	all := bodies(key)
	agency := func(edit func(*Agency)) Body { b := all["agency"].(Agency); edit(&b); return b }
	cert := func(edit func(*Certification)) Body { b := all["certification"].(Certification); edit(&b); return b }
	recovery := func(edit func(*Recovery)) Body { b := all["recovery"].(Recovery); edit(&b); return b }
	broken := func(edit func(*Break)) Body { b := all["break"].(Break); edit(&b); return b }
	long := strings.Repeat("é", 200)
	tests := []struct {
		name string
		body Body
		want string // in the error; empty if it is valid
	}{
		{"name of 200 characters", agency(func(b *Agency) { b.Name = long }), ""},
		{"name of 201 characters", agency(func(b *Agency) { b.Name = long + "x" }), "name has 201"},
		{"empty name", agency(func(b *Agency) { b.Name = "" }), "name has 0"},
		{"escape in name", agency(func(b *Agency) { b.Name = "a\x1b[2J" }), "U+001B"},
		{"delete in name", agency(func(b *Agency) { b.Name = "a\x7f" }), "U+007F"},
		{"C1 control in name", agency(func(b *Agency) { b.Name = "a\u009b" }), "U+009B"},
		{"line separator in name", agency(func(b *Agency) { b.Name = "a\u2028" }), "U+2028"},
		{"override in name", agency(func(b *Agency) { b.Name = "a\u202eb" }), "U+202E"},
		{"isolate in name", agency(func(b *Agency) { b.Name = "a\u2066b" }), "U+2066"},
		{"invalid UTF-8 in name", agency(func(b *Agency) { b.Name = "a\xff" }), "UTF-8"},
		{"empty agency", agency(func(b *Agency) { b.Agency = "" }), "agency"},
		{"agency of 65 characters", agency(func(b *Agency) { b.Agency = strings.Repeat("a", 65) }), "65 characters"},
		{"agency in capitals", agency(func(b *Agency) { b.Agency = "Registry" }), "a-z0-9-"},
		{"agency with a dash in front", agency(func(b *Agency) { b.Agency = "-registry" }), "starts or ends"},
		{"agency with a dash behind", agency(func(b *Agency) { b.Agency = "registry-" }), "starts or ends"},
		{"another agency's key", agency(func(b *Agency) { b.Agency = "registry-of-altea" }), "key is named"},
		{"no key", agency(func(b *Agency) { b.Key = "" }), "key"},
		{"no time", agency(func(b *Agency) { b.Time = time.Time{} }), "time"},
		{"year 10000", agency(func(b *Agency) { b.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }), "time"},

		{"one day", cert(func(b *Certification) { b.ValidUntil = b.Issued }), ""},
		{"ends before it begins", cert(func(b *Certification) { b.ValidUntil = "2026-11-19" }), "valid_until"},
		{"not issued", cert(func(b *Certification) { b.Issued = "" }), "issued"},
		{"issued on no day", cert(func(b *Certification) { b.Issued = "2026-02-29" }), "issued"},
		{"leap day", cert(func(b *Certification) { b.Issued = "2024-02-29" }), ""},
		{"short date", cert(func(b *Certification) { b.Issued = "2026-1-1" }), "issued"},
		{"date with time", cert(func(b *Certification) { b.ValidUntil = "2036-11-19T00:00:00Z" }), "valid_until"},
		{"no type of document", cert(func(b *Certification) { b.DocumentType = "" }), "document_type"},
		{"no subject", cert(func(b *Certification) { b.Subject = "" }), "subject"},
		{"two-line subject", cert(func(b *Certification) { b.Subject = "a\nb" }), "subject"},
		{"bad agency", cert(func(b *Certification) { b.Agency = "a b" }), "agency"},

		{"nothing lost", recovery(func(b *Recovery) { b.RolledFrom, b.RolledTo, b.VoidFrom, b.VoidTo = 0, 0, 0, 0 }), ""},
		{"largest", recovery(func(b *Recovery) { b.VoidTo = calpe.MaxLogSize }), ""},
		{"rolled backwards", recovery(func(b *Recovery) { b.RolledFrom = 8 }), "rolled_from"},
		{"rolled too far", recovery(func(b *Recovery) { b.RolledTo = calpe.MaxLogSize + 1 }), "rolled_to"},
		{"void backwards", recovery(func(b *Recovery) { b.VoidFrom = 266 }), "void_from"},
		{"void too far", recovery(func(b *Recovery) { b.VoidTo = 1<<64 - 1 }), "void_to"},
		{"long reason", recovery(func(b *Recovery) { b.Reason = strings.Repeat("é", 1000) }), ""},
		{"too long reason", recovery(func(b *Recovery) { b.Reason = strings.Repeat("é", 1001) }), "reason"},
		{"no time", recovery(func(b *Recovery) { b.Time = time.Time{} }), "time"},

		{"goes on with the coin that was spent", broken(func(b *Break) { b.First = b.Coin }), "first_outpoint"},
		{"goes on with another output of that transaction", broken(func(b *Break) { b.First = b.Coin; b.First.Vout++ }), ""},
		{"an anchor without a size", broken(func(b *Break) { b.Size = 0 }), "go together"},
		{"an anchor without a root", broken(func(b *Break) { b.Root = calpe.Hash{} }), "go together"},
		{"a size without an anchor", broken(func(b *Break) { b.Anchor = calpe.BlockHash{} }), "go together"},
		{"largest anchor", broken(func(b *Break) { b.Size = calpe.MaxLogSize }), ""},
		{"too large an anchor", broken(func(b *Break) { b.Size = calpe.MaxLogSize + 1 }), "size"},
		{"no reason", broken(func(b *Break) { b.Reason = "" }), "reason"},
		{"break without a time", broken(func(b *Break) { b.Time = time.Time{} }), "time"},
	}
	for _, tt := range tests {
		signed, err := Sign(key, tt.body)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case err != nil && signed.Body() != nil:
			t.Errorf("%s: a statement was given out: %s", tt.name, signed.Bytes())
		}
	}
}

// TestLargestStatementFits: no statement that is valid is too large.
func TestLargestStatementFits(t *testing.T) {
	name := strings.Repeat("k", 300)
	key := generate(t, name)
	widest := strings.Repeat("\U0001f58b", 1000)
	signed, err := Sign(key, Recovery{Reason: widest, Time: testTime})
	if err != nil || len(signed.Bytes()) > MaxSize {
		t.Errorf("%d bytes, %v", len(signed.Bytes()), err)
	}
}

func TestParseRefuses(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	texts := map[string]string{}
	for name, body := range bodies(key) {
		signed, err := Sign(key, body)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(signed.Bytes())
	}
	const a, c, r, b = "agency", "certification", "recovery", "break"
	tests := []struct{ name, of, old, replacement, want string }{
		{"no key", c, `"key":`, `"keys":`, `"/keys"`},
		{"no statement", c, `"statement":`, `"state":`, `"/state"`},
		{"unknown member", c, `{`, `{"a":"b",`, `"/a"`},
		{"unknown member inside", c, `"issued"`, `"a":"b","issued"`, `"/a"`},
		{"case-folded member", c, `"issued"`, `"Issued"`, `"/Issued"`},
		{"case-folded envelope", c, `"signature"`, `"Signature"`, `"/Signature"`},
		{"duplicate", c, `"issued"`, `"issued":"2026-11-20","issued"`, "duplicate"},
		{"duplicate key", c, `{"key"`, `{"key":"a+00000000","key"`, "duplicate"},
		{"no type", c, `"type"`, `"typ"`, "no type"},
		{"unknown type", c, `certification/v1"`, `certification/v2"`, "unknown type"},
		{"type of another", c, `calpe/certification/v1`, `calpe/agency/v1`, "member statement"},
		{"type as a number", c, `"calpe/certification/v1"`, `1`, "no type"},
		{"missing issued", c, `"issued":"2026-11-20",`, ``, `"/issued" is missing`},
		{"empty valid_until", c, `"2036-11-19"`, `""`, `"/valid_until" may not be empty`},
		{"null valid_until", c, `"2036-11-19"`, `null`, "null"},
		{"digest in capitals", c, `"digest":"02`, `"digest":"0A`, "/digest"},
		{"short digest", c, `"digest":"02`, `"digest":"`, "/digest"},
		{"missing rolled_to", r, `"rolled_to":7,`, ``, `"/rolled_to" is missing`},
		{"fraction", r, `"void_to":265`, `"void_to":265.0`, "integer"},
		{"exponent", r, `"void_to":265`, `"void_to":3e2`, "integer"},
		{"negative", r, `"void_to":265`, `"void_to":-1`, "integer"},
		{"above 2^53", r, `"void_to":265`, `"void_to":9007199254740993`, "integer"},
		{"number as text", r, `"void_to":265`, `"void_to":"265"`, "/void_to"},
		{"coin without a number", b, `"coin":"0`, `"coin":"","coins":"0`, "/coin"},
		{"outpoint's number with a zero in front", b, `02:1"`, `02:01"`, "/coin"},
		{"short block hash", b, `"block":"0`, `"block":"`, "/block"},
		{"height above 32 bits", b, `"height":900000`, `"height":4294967296`, "/height"},
		{"missing spent_by", b, `"spent_by"`, `"spender"`, "/spender"},
		{"no anchor spelled out", b, `"size":77`, `"size":0`, `"/size" may not be empty`},
		{"local time", a, `09:30:00Z`, `09:30:00`, "/time"},
		{"fraction of a second", a, `09:30:00Z`, `09:30:00.0Z`, "/time"},
		{"another time zone", a, `09:30:00Z`, `10:30:00+01:00`, "/time"},
		{"key without id", c, key.ID(), key.Name(), "key"},
		{"key id in capitals", c, key.ID(), "registry-of-calpe+0000000A", "key"},
		{"key with a space", c, key.ID(), "registry of calpe+0000000a", "key"},
		{"key without a name", c, key.ID(), "+0000000a", "key"},
		{"key with two ids", c, key.ID(), "a+00000000+00000000", "key"},
		{"long key", c, key.ID(), strings.Repeat("a", 600) + "+00000000", "key"},
		{"signature unpadded", c, `=="`, `="`, "/signature"},
		{"signature with stray bits", c, `A=="`, `B=="`, "/signature"},
		{"signature with a line break", c, `"signature":"`, `"signature":"\n`, "/signature"},
		{"signature of 63 bytes", c, `=="`, `="`, "/signature"},
		{"no signature", c, `"signature":"`, `"signature":"", "x":"`, `"/x"`},
		{"trailing", c, `}}`, `}}{}`, "follows"},
		{"byte order mark", c, `{`, "\ufeff{", "invalid character"},
		{"invalid UTF-8", c, "birth", "b\xffrth", "UTF-8"},
		{"lone surrogate", c, "birth", `b\udc00rth`, "surrogate"},
		{"escaped control", c, "birth", `b\u0000rth`, "U+0000"},
		{"statement in an array", c, `"statement":{`, `"statement":[{`, "jsontext"},
		{"too large", c, `{`, `{` + strings.Repeat(" ", MaxSize), "more than"},
		{"too deep", c, `"2036-11-19"`, strings.Repeat("[", 1000) + strings.Repeat("]", 1000), "deeper"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := texts[tt.of]
			if tt.name == "signature with stray bits" {
				i := strings.Index(text, `=="`) - 1
				text = text[:i] + string(text[i]+1) + text[i+1:]
			} else if !strings.Contains(text, tt.old) {
				t.Fatalf("the statement has no %q", tt.old)
			} else {
				text = strings.Replace(text, tt.old, tt.replacement, 1)
			}
			s, err := Parse([]byte(text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want an error with %q", err, tt.want)
			}
			if s.Body() != nil {
				t.Errorf("a statement was given out: %s", s.Bytes())
			}
		})
	}
	for name, text := range texts {
		for n := range len(text) {
			if _, err := Parse([]byte(text[:n])); err == nil {
				t.Errorf("%s: cut to %d of %d bytes it was accepted", name, n, len(text))
			}
		}
	}
}

func TestSignedInJSON(t *testing.T) {
	key := generate(t, "registry-of-calpe")
	signed, err := Sign(key, bodies(key)["agency"])
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.MarshalIndent(map[string]Signed{"s": signed}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]Signed
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got["s"].Digest() != signed.Digest() {
		t.Errorf("%s gives another digest", data)
	}
	if _, err := json.Marshal(Signed{}); err == nil {
		t.Error("no statement has a JSON form")
	}
	if err := json.Unmarshal([]byte(`{"s":{}}`), &got); err == nil {
		t.Error("an empty object is a statement")
	}
	// The caller may do with the bytes what it likes.
	b := signed.Bytes()
	b[0] = 'x'
	if signed.Bytes()[0] == 'x' {
		t.Error("Bytes gives away the statement's own memory")
	}
}

func TestKeyFromNoteExample(t *testing.T) {
	for _, text := range []string{noteSecret, noteSecret + "\n"} {
		k, err := ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		if k.Verifier() != noteVerifier || k.Secret() != noteSecret || k.ID() != "PeterNeumann+c74f20a3" {
			t.Errorf("verifier %s, id %s", k.Verifier(), k.ID())
		}
		v, err := ParseVerifierKey(noteVerifier)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := k.Sign([]byte("message"))
		if err != nil || !v.Verify([]byte("message"), sig) || VerifierID(v) != k.ID() {
			t.Errorf("signature doesn't verify: %v", err)
		}
	}
}

// TestKeysWithPlusSigns: base64 has a plus sign too.
func TestKeysWithPlusSigns(t *testing.T) {
	for range 200 {
		k := generate(t, "registry-of-calpe")
		again, err := ParseKey(k.Secret())
		if err != nil || again.Verifier() != k.Verifier() {
			t.Fatalf("%v", err)
		}
		if _, err := ParseVerifierKey(k.Verifier()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"public":        noteVerifier,
		"another name":  strings.Replace(noteSecret, "Peter", "Paul", 1),
		"another id":    strings.Replace(noteSecret, "c74f20a3", "c74f20a4", 1),
		"cut":           noteSecret[:len(noteSecret)-4],
		"two newlines":  noteSecret + "\n\n",
		"space":         " " + noteSecret,
		"too long":      noteSecret + strings.Repeat("A", 1000),
		"another type":  strings.Replace(noteSecret, "+AYEK", "+AoEK", 1),
		"not base64":    strings.Replace(noteSecret, "+AYEK", "+A!EK", 1),
		"no parts":      "PRIVATE+KEY",
		"name of space": "PRIVATE+KEY+Peter Neumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
	} {
		_, err := ParseKey(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "EKFALV") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func TestParseVerifierKeyRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":        "",
		"private":      noteSecret,
		"capitals":     strings.Replace(noteVerifier, "c74f20a3", "C74F20A3", 1),
		"another id":   strings.Replace(noteVerifier, "c74f20a3", "c74f20a4", 1),
		"another name": strings.Replace(noteVerifier, "Peter", "Paul", 1),
		"cut":          noteVerifier[:len(noteVerifier)-4],
		"newline":      noteVerifier + "\n",
		"line break":   noteVerifier[:40] + "\n" + noteVerifier[40:],
		"too long":     strings.Repeat("a", 1000) + noteVerifier,
	} {
		if _, err := ParseVerifierKey(text); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "EKFALV") {
			t.Errorf("%s: the error shows a private key: %v", name, err)
		}
	}
}

func TestGenerateKeyRefuses(t *testing.T) {
	for _, name := range []string{"", "a b", "a+b", strings.Repeat("a", 600)} {
		if _, err := GenerateKey(rand.Reader, name); err == nil {
			t.Errorf("a key named %.20q was made", name)
		}
	}
}

// TestKeyNeverShows prints and logs a key in every way there is.
func TestKeyNeverShows(t *testing.T) {
	k, err := ParseKey(noteSecret)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", slog.Any("key", k), slog.Any("pointer", &k))
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", slog.Any("key", k), slog.Any("pointer", &k))
	data, err := json.Marshal(map[string]any{"key": k})
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + string(data)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k) + fmt.Sprintf(verb, struct{ K Key }{k})
	}
	raw, err := base64.StdEncoding.DecodeString(noteSecret[len("PRIVATE+KEY+PeterNeumann+c74f20a3+"):])
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"EKFALV", fmt.Sprintf("%x", raw[1:9]), fmt.Sprintf("%d", raw[1:9])[1:20]} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q is shown in %s", secret, shown)
		}
	}
	if !strings.Contains(shown, "PeterNeumann+c74f20a3") {
		t.Error("the name of the key isn't shown")
	}
	if (Key{}).Secret() != "" {
		t.Error("the zero key has a secret")
	}
}

func TestTimes(t *testing.T) {
	if got := FormatTime(testTime.In(time.FixedZone("", -3600))); got != "2026-11-21T09:30:00Z" {
		t.Errorf("FormatTime: %s", got)
	}
	for _, text := range []string{"1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2024-02-29T00:00:00Z"} {
		if got, err := ParseTime(text); err != nil || FormatTime(got) != text || got.Location() != time.UTC {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "2026-11-21", "2026-11-21T09:30:00", "2026-11-21t09:30:00Z", "2026-11-21T09:30:00z", "2026-11-21 09:30:00Z",
		"2026-11-21T09:30:00.0Z", "2026-11-21T09:30:00,5Z", "2026-11-21T9:30:00Z", "2026-11-21T09:30:60Z", "2026-11-21T24:00:00Z", "2026-02-29T00:00:00Z",
		"1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "2026-11-21T09:30:00+00:00", " 2026-11-21T09:30:00Z"} {
		if got, err := ParseTime(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	if got := DateOf(time.Date(2026, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600))); got != "2025-12-31" {
		t.Errorf("DateOf: %s", got)
	}
}

func TestCanonical(t *testing.T) {
	tests := []struct{ in, want string }{
		{" {\"b\" : 1 ,\"a\":[ \"x\" , {} ] }\n", `{"a":["x",{}],"b":1}`},
		{`"\u0041\u00e9\/\u0001\u007f\t"`, "\"Aé/\\u0001\x7f\\t\""},
		{`{"\ud83d\ude00":1,"\ufb33":2}`, "{\"\U0001f600\":1,\"\ufb33\":2}"}, // RFC 8785 sorts by UTF-16
		{`9007199254740991`, `9007199254740991`},
		{`0`, `0`},
	}
	for _, tt := range tests {
		in := []byte(tt.in)
		got, err := Canonical(in)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %s, %v, want %s", tt.in, got, err, tt.want)
		}
		if string(in) != tt.in {
			t.Errorf("%s was changed to %s", tt.in, in)
		}
	}
	for _, in := range []string{"", " ", "{", "{}{}", "{} x", "null", "true", "[false]", "1.0", "1e3", "-1", "-0", "01", "9007199254740992", "1e999",
		"99999999999999999999999", `{"a":1,"a":1}`, `{"a":1,"\u0061":1}`, "\"\xff\"", `"\ud800"`, "\ufeff{}", "{'a':1}", `{"a":1,}`, "NaN", "\"\n\"",
		strings.Repeat("[", 17) + strings.Repeat("]", 17), strings.Repeat("[", 1_000_000)} {
		if got, err := Canonical([]byte(in)); err == nil {
			t.Errorf("%.40q is %s", in, got)
		}
	}
	if _, err := Canonical([]byte(strings.Repeat("[", 16) + strings.Repeat("]", 16))); err != nil {
		t.Errorf("16 levels: %v", err)
	}
}

func TestDecodeNamesThePlace(t *testing.T) {
	type inner struct {
		Size uint32 `json:"size"`
	}
	type outer struct {
		Name  string  `json:"name"`
		Inner inner   `json:"inner"`
		Note  string  `json:"note,omitzero"`
		List  []inner `json:"list,omitzero"`
	}
	tests := []struct{ in, want string }{
		{`{"name":"a","inner":{"size":1}}`, ""},
		{`{"name":"a","inner":{"size":1},"note":"n","list":[{"size":2}]}`, ""},
		{`{"name":"a","inner":{}}`, `"/inner/size" is missing`},
		{`{"inner":{"size":1}}`, `"/name" is missing`},
		{`{"name":"a","inner":{"size":1},"note":""}`, `"/note" may not be empty`},
		{`{"name":"a","inner":{"size":4294967296}}`, `"/inner/size"`},
		{`{"name":1,"inner":{"size":1}}`, `"/name": a number is not what belongs there`},
		{`{"name":"a","inner":[]}`, `"/inner": an array is not what belongs there`},
		{`{"name":{},"inner":{"size":1}}`, `"/name": an object is not what belongs there`},
		{`{"name":"a","inner":{"size":1},"list":[{"size":1},{}]}`, `"/list" is not in its only spelling`},
		{`{"name":"a","inner":{"size":1,"a/b":1}}`, `"/inner/a~1b"`},
		{`[]`, `an array`},
	}
	for _, tt := range tests {
		err := Decode([]byte(tt.in), new(outer))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.in, err, tt.want)
		}
	}
}

// FuzzParseStatement: what is a statement has one digest, and says what it says
// again when it is signed again.
func FuzzParseStatement(f *testing.F) {
	key := generate(f, "registry-of-calpe")
	for _, body := range bodies(key) {
		signed, err := Sign(key, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(signed.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		again, err := Parse(s.Bytes())
		if err != nil || again.Digest() != s.Digest() {
			t.Fatalf("read again: %v", err)
		}
		signed, err := Sign(key, s.Body())
		if err != nil {
			t.Fatalf("signed again: %v", err)
		}
		if d := cmp.Diff(s.Body(), signed.Body()); d != "" {
			t.Fatal(d)
		}
	})
}
