package api

import (
	"encoding/base64"
	"strings"

	"github.com/calpe/calpe"
)

// parseContentDigest reads a Content-Digest or Repr-Digest header (RFC 9530), a
// structured dictionary of algorithms and byte sequences (RFC 9651), as far as
// it has a SHA-256. Other algorithms are passed over, as the RFC asks; nil means
// that there was none of ours.
func parseContentDigest(values []string) (*calpe.Digest, error) {
	var found *calpe.Digest
	for member := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, value, ok := strings.Cut(strings.Trim(member, " \t"), "=")
		if !ok || name != "sha-256" {
			continue
		}
		value, _, _ = strings.Cut(value, ";") // parameters have no meaning here
		text, opened := strings.CutPrefix(value, ":")
		text, closed := strings.CutSuffix(text, ":")
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		if !opened || !closed || err != nil || len(raw) != calpe.HashSize {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest,
				"Content-Digest: the sha-256 member must be 32 bytes of base64 between two colons (RFC 9530)")
		}
		d := calpe.Digest(raw)
		found = &d // of several the last one counts (RFC 9651, 3.2)
	}
	return found, nil
}
