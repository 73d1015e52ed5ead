package api

import (
	"mime"
	"strconv"
	"strings"
)

// negotiate chooses among offered media types the one that Accept prefers (RFC
// 9110, 12.5.1); of equals, the first offered. Empty: none is acceptable. Members
// that can't be read are passed over.
func negotiate(accept []string, offers ...string) string {
	ranges := acceptRanges(strings.Join(accept, ","))
	if len(ranges) == 0 {
		return offers[0]
	}
	best, quality := "", 0.0
	for _, offer := range offers {
		if q := ranges.quality(offer); q > quality {
			best, quality = offer, q
		}
	}
	return best
}

// mediaRanges is how much each media range is wanted, from 0 to 1.
type mediaRanges map[string]float64

func acceptRanges(accept string) mediaRanges {
	ranges := mediaRanges{}
	for member := range strings.SplitSeq(accept, ",") {
		mediaType, params, err := mime.ParseMediaType(member)
		if err != nil || !strings.Contains(mediaType, "/") {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil || q < 0 || q > 1 {
				continue
			}
		}
		ranges[mediaType] = q
	}
	return ranges
}

// quality of a type: that of the most specific range which has it.
func (m mediaRanges) quality(mediaType string) float64 {
	kind, _, _ := strings.Cut(mediaType, "/")
	for _, r := range []string{mediaType, kind + "/*", "*/*"} {
		if q, ok := m[r]; ok {
			return q
		}
	}
	return 0
}
