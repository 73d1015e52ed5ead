package main

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/calpe/calpe"
)

// problem is a refusal by the service (RFC 9457), or by something in between.
type problem struct {
	Status int        `json:"-"` // as the header has it
	Title  string     `json:"title"`
	Detail string     `json:"detail"`
	Code   calpe.Code `json:"code"`

	RetryAfter time.Duration `json:"-"`
	// Doubt: this attempt or an earlier one may have been applied all the same.
	Doubt bool `json:"-"`
}

// advice is what somebody at a command line can do about a code.
var advice = map[calpe.Code]string{
	calpe.CodeUnauthorized:        "Check CALPE_TOKEN; the operator of the service gives out tokens.",
	calpe.CodeForbidden:           "Ask the operator of the service for a token with that right.",
	calpe.CodeDigestMismatch:      "The file was changed while it was sent, or the connection spoiled it: try again.",
	calpe.CodeCertification:       "Ask the agency for another certification, or notarize without one.",
	calpe.CodeIdempotencyMismatch: "Move the pending file away to start anew.",
	calpe.CodeIntakeStopped:       "Run the same command again later.",
	calpe.CodeUnavailable:         "Run the same command again later: nothing is recorded twice.",
	calpe.CodeTooManyRequests:     "Run the same command again later.",
	calpe.CodeInternal:            "Run the same command again later, and tell the operator if it stays so: nothing is recorded twice.",
}

// Error says in plain words what the service said, and what to do.
func (p *problem) Error() string {
	text := p.said()
	if a := advice[p.Code]; a != "" {
		text += ". " + a
	}
	return text
}

// said is what the service said, without what to do about it.
func (p *problem) said() string {
	text := "the service refused: " + strings.TrimSuffix(clip(p.Title), ".")
	if p.Detail != "" {
		text += ": " + strings.TrimSuffix(clip(p.Detail), ".")
	}
	text += fmt.Sprintf(" (HTTP %d", p.Status)
	if p.Code != "" {
		text += ", " + clip(string(p.Code))
	}
	text += ")"
	if p.RetryAfter > 0 {
		text += fmt.Sprintf("; it asks to wait %v", p.RetryAfter.Round(time.Second))
	}
	return text
}

// readProblem makes an error of any answer that isn't a success. Whatever can't
// be read is replaced by what the status says.
func (s *service) readProblem(resp *http.Response) *problem {
	p := &problem{}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType == "application/problem+json" {
		data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
		if err != nil || json.Unmarshal(data, p) != nil {
			*p = problem{}
		}
	}
	p.Status, p.RetryAfter = resp.StatusCode, s.retryAfter(resp.Header)
	if p.Title == "" {
		p.Title = http.StatusText(resp.StatusCode)
	}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		p.Detail = fmt.Sprintf("It is at %s: give that address as --server if you trust it", to)
	}
	return p
}

// clip keeps a service's words short and on one line.
func clip(text string) string {
	const longest = 500
	runes := []rune(text)
	if len(runes) > longest {
		runes = append(runes[:longest], '…')
	}
	for i, r := range runes {
		if r == '\n' {
			runes[i] = ' '
		}
	}
	return string(runes)
}
