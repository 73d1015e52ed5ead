package calpe_test

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"

	"github.com/calpe/calpe"
)

const findCodeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func newFindCode() calpe.FindCode {
	var random [18]byte
	rand.Read(random[:])
	return calpe.NewFindCode(random)
}

// The examples of docs/find.md; the check characters were computed by other code.
func TestFindCodeExamples(t *testing.T) {
	t.Parallel()
	var counting [18]byte
	for i := range counting {
		counting[i] = byte(i) | 0xe0 // the high bits don't count
	}
	for want, random := range map[string][18]byte{
		"0000-0000-0000-0000-0000": {},
		"0000-0000-0000-0000-0101": {17: 1},
		"0123-4567-89AB-CDEF-GHDE": counting,
		"K7QM-4TZP-9XHD-2V6R-WEW8": {19, 7, 23, 20, 4, 26, 31, 22, 9, 29, 17, 13, 2, 27, 6, 24, 28, 14},
	} {
		if got := calpe.NewFindCode(random).String(); got != want {
			t.Errorf("code %s, want %s", got, want)
		}
	}
}

func TestParseFindCode(t *testing.T) {
	t.Parallel()
	code := newFindCode()
	text := code.String()
	for _, spelling := range []string{
		text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", " – "), " " + text + "\n",
		strings.NewReplacer("0", "O", "1", "I").Replace(text), strings.NewReplacer("0", "o", "1", "l").Replace(text),
	} {
		if got, err := calpe.ParseFindCode(spelling); err != nil || got != code {
			t.Errorf("%q became %v, %v", spelling, got, err)
		}
	}
	for bad, want := range map[string]string{
		"":                           "0 characters",
		text[:23]:                    "19 characters",
		text + "0":                   "21 characters",
		text[:5] + "U" + text[6:]:    `character 5 of the code is 'U'`,
		text[:6] + "u" + text[7:]:    `character 6 of the code is 'u'`,
		text[:23] + "*":              `character 20 of the code is '*'`,
		text[:20] + "ñ" + text[21:]:  `character 17 of the code is 'ñ'`,
		text[:1] + "\xff" + text[2:]: `character 2`,
		strings.Repeat(text, 5):      "far more",
	} {
		if got, err := calpe.ParseFindCode(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q became %v, %v; want an error with %q", bad, got, err, want)
		}
	}
}

// One wrong character, anywhere, and any two neighbours in each other's place are seen.
func TestFindCodeCheckSeesMistakes(t *testing.T) {
	t.Parallel()
	for range 200 {
		code := newFindCode()
		for i := range code {
			for _, b := range []byte(findCodeAlphabet) {
				wrong := code
				wrong[i] = b
				if got, err := calpe.ParseFindCode(string(wrong[:])); (err == nil) != (wrong == code) {
					t.Fatalf("%s for %s became %v, %v", wrong[:], code, got, err)
				}
			}
			if i == 0 {
				continue
			}
			swapped := code
			swapped[i-1], swapped[i] = code[i], code[i-1]
			if got, err := calpe.ParseFindCode(string(swapped[:])); (err == nil) != (swapped == code) {
				t.Fatalf("%s for %s became %v, %v", swapped[:], code, got, err)
			}
		}
	}
}

func TestFindCodeInJSON(t *testing.T) {
	t.Parallel()
	type row struct {
		Code calpe.FindCode `json:"code,omitzero"`
	}
	for _, want := range []row{{}, {newFindCode()}} {
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got row
		if err := json.Unmarshal(data, &got); err != nil || got != want {
			t.Errorf("%s became %v, %v", data, got, err)
		}
	}
	if (calpe.FindCode{}).String() != "" {
		t.Error("the zero code has a text")
	}
	a, b := newFindCode(), newFindCode()
	if again := a; a == b || a.Hash() == b.Hash() || again.Hash() != a.Hash() {
		t.Error("two codes have one hash, or one code two")
	}
}

func FuzzParseFindCode(f *testing.F) {
	f.Add("0000-0000-0000-0000-0000")
	f.Add("k7qm 4tzp 9xhd 2v6r wew8")
	f.Add("OIL0–0000\u00a0\xff")
	f.Fuzz(func(t *testing.T, text string) {
		code, err := calpe.ParseFindCode(text)
		if err != nil {
			if code != (calpe.FindCode{}) {
				t.Errorf("%q gives %v and %v", text, code, err)
			}
			return
		}
		again, err := calpe.ParseFindCode(code.String())
		if err != nil || again != code || strings.Trim(string(code[:]), findCodeAlphabet) != "" {
			t.Errorf("%q gives %v, which gives %v, %v", text, code, again, err)
		}
	})
}
