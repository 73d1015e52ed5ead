package bitcoin

import (
	"errors"
	"net/http"
	"testing"
	"unicode/utf8"
)

// Any body gives a result, a typed refusal, or one of two errors.
func FuzzParseAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"result":12,"error":null,"id":1}`, `{"result":null,"error":{"code":-28,"message":"x"},"id":1}`,
		`{"result":null,"error":{"code":-5,"message":"\u0000"},"id":1}`, `{"id":1}`, `[]`, ``, `{"result":{"a":[1,2,{}]},"error":null,"id":1}`,
	} {
		f.Add([]byte(seed), 200)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		result, err := parseAnswer(body, status, 1, "m")
		_, refusal := errors.AsType[*RPCError](err)
		switch {
		case err == nil && (status != http.StatusOK || !result.IsValid()):
			t.Fatalf("status %d, result %q", status, result)
		case err != nil && !refusal && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrWarmingUp):
			t.Fatalf("error %v", err)
		case err != nil && (len(err.Error()) > 1000 || !utf8.ValidString(err.Error())):
			t.Fatalf("error of %d bytes: %q", len(err.Error()), err)
		}
	})
}
