package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
)

// bodyTag is a strong entity tag for an answer's bytes (RFC 9110, 8.8.3).
func bodyTag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// notModified sets the entity tag of what is about to be answered. If the client
// says that it has just that (If-None-Match), the answer is 304 and given. Other
// headers that the answer would have must be set before.
func notModified(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	if !anyTagMatches(strings.Join(r.Header.Values("If-None-Match"), ","), tag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

// anyTagMatches looks for tag in a list of entity tags, by weak comparison (RFC
// 9110, 8.8.3.2 and 13.1.2). "*" matches: what is asked for exists. A list that
// can't be read matches nothing, so that the answer is sent in full.
func anyTagMatches(list, tag string) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for {
		list = strings.TrimLeft(list, " \t,")
		opaque, quoted := strings.CutPrefix(strings.TrimPrefix(list, "W/"), `"`)
		end := strings.IndexByte(opaque, '"')
		if !quoted || end < 0 {
			return false
		}
		if `"`+opaque[:end]+`"` == tag {
			return true
		}
		list = opaque[end+1:]
	}
}

// rangeHolds reports whether the Range header counts: without If-Range, or if
// that names the very same bytes (RFC 9110, 13.1.5: strong comparison). A date
// never does, as no answer has one.
func rangeHolds(r *http.Request, tag string) bool {
	condition := r.Header.Get("If-Range")
	return condition == "" || condition == tag
}
