package api

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/calpe/calpe"
)

// pacedBody reads a request's body from a client that may be slow, but not
// endlessly so: each read must bring something within idle, and after grace the
// whole must have come at minRate or faster. A client below that holds a part
// buffer and a connection that others need.
type pacedBody struct {
	body    io.Reader
	control *http.ResponseController
	now     func() time.Time
	begun   time.Time
	start   time.Time // from which on the rate counts
	read    int64     // since then
	pace    Pace
	err     error // that ended it
}

// nothingKept is in the messages about bodies that didn't come to their end.
const nothingKept = "nothing was kept"

// nextPart lets the rate count anew: what the server did since the last part, or
// how fast that came, says nothing of the next one.
func (b *pacedBody) nextPart() { b.start, b.read = b.now(), 0 }

// boundBodies limits the time for a body that nobody reads, as after a refusal:
// net/http reads on before it answers, and would wait for ever. Whoever reads
// sets deadlines of his own. A body that was read in part when the answer was
// given is read on for a while, see linger.
func (s *Server) boundBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(s.cfg.Now().Add(s.cfg.Pace.Idle))
		body := &watchedBody{ReadCloser: r.Body}
		watched := r.WithContext(r.Context()) // net/http looks at the body of its own request
		watched.Body = body
		next.ServeHTTP(w, watched)
		if body.cutShort() && r.ProtoMajor == 1 {
			s.linger(w, body)
		}
	})
}

// watchedBody knows how far a request's body was read.
type watchedBody struct {
	io.ReadCloser
	begun, ended bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.begun, b.ended = true, b.ended || err != nil
	return n, err
}

// cutShort reports whether the client was asked for the body and is still
// sending it, as far as this server knows. One that waits for "100 Continue" in
// vain isn't.
func (b *watchedBody) cutShort() bool { return b.begun && !b.ended }

// lingerBytes is how much of a body is thrown away, at most, behind an answer
// that came before its end.
const lingerBytes = 256 << 20

// linger sends the answer on its way and takes what the client still sends, for
// a time and an amount that are bounded. Many clients write all of a document
// before they read; if the connection were closed under them, TCP would reset it,
// and the answer that tells them why would be lost with it.
func (s *Server) linger(w http.ResponseWriter, body io.Reader) {
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return
	}
	end := s.cfg.Now().Add(s.cfg.Pace.Linger)
	for rest := int64(lingerBytes); rest > 0; {
		now := s.cfg.Now()
		if !now.Before(end) || control.SetReadDeadline(earlier(now.Add(s.cfg.Pace.Idle), end)) != nil {
			return
		}
		n, err := io.CopyN(io.Discard, body, min(rest, pacedChunk))
		if err != nil { // the end, or a client that has read its answer and is gone
			return
		}
		rest -= n
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// pacedWriter writes a long answer to a client that may be slow, but must take
// something within idle: one that takes nothing holds memory and connections.
type pacedWriter struct {
	w       io.Writer
	control *http.ResponseController
	now     func() time.Time
	idle    time.Duration
}

// pacedAnswer writes to w at the pace of the server.
func (s *Server) pacedAnswer(w http.ResponseWriter) io.Writer {
	return &pacedWriter{w: w, control: http.NewResponseController(w), now: s.cfg.Now, idle: s.cfg.Pace.Idle}
}

// pacedChunk is what must be taken within idle.
const pacedChunk = 64 << 10

func (p *pacedWriter) Write(data []byte) (written int, err error) {
	for len(data) > 0 && err == nil {
		_ = p.control.SetWriteDeadline(p.now().Add(p.idle))
		var n int
		n, err = p.w.Write(data[:min(len(data), pacedChunk)])
		written, data = written+n, data[n:]
	}
	return written, err
}

// Pace is what the server asks of a client that sends a body, or takes a long answer.
type Pace struct {
	Idle    time.Duration // longest silence, of either; default 30 s
	Grace   time.Duration // time before the rate counts; default 20 s
	MinRate int64         // bytes a second, averaged from the start; default 4096
	Total   time.Duration // longest upload; default 6 h, and always below the age at which orphans are swept
	Linger  time.Duration // longest reading on behind an answer that came before the end of a body; default 20 s
}

func (p Pace) withDefaults() Pace {
	if p.Idle <= 0 {
		p.Idle = 30 * time.Second
	}
	if p.Grace <= 0 {
		p.Grace = 20 * time.Second
	}
	if p.MinRate <= 0 {
		p.MinRate = 4096
	}
	if p.Total <= 0 {
		p.Total = 6 * time.Hour
	}
	if p.Linger <= 0 {
		p.Linger = 20 * time.Second
	}
	return p
}

// paced is the request's body, of up to limit bytes.
func (s *Server) paced(w http.ResponseWriter, r *http.Request, limit int64) *pacedBody {
	now := s.cfg.Now()
	return &pacedBody{
		body:    http.MaxBytesReader(unwrapped(w), r.Body, limit),
		control: http.NewResponseController(w), now: s.cfg.Now, begun: now, start: now, pace: s.cfg.Pace,
	}
}

func (b *pacedBody) Read(buf []byte) (int, error) {
	if b.err != nil {
		// A deadline set now would not be the body's any more: net/http watches
		// whether the client is still there, and would take it for gone.
		return 0, b.err
	}
	n, err := b.readMore(buf)
	b.err = err
	return n, err
}

func (b *pacedBody) readMore(buf []byte) (int, error) {
	now := b.now()
	if err := b.tooSlow(now); err != nil {
		return 0, err
	}
	deadline := earlier(now.Add(b.pace.Idle), b.begun.Add(b.pace.Total))
	// A connection without deadlines (a test's recorder) is paced by the rate alone.
	_ = b.control.SetReadDeadline(deadline)
	n, err := b.body.Read(buf)
	b.read += int64(n)
	return n, clientError(err)
}

func (b *pacedBody) tooSlow(now time.Time) error {
	elapsed := now.Sub(b.start)
	switch {
	case now.Sub(b.begun) > b.pace.Total:
		return calpe.Errorf(calpe.CodeSlowClient, "The upload took longer than %v; "+nothingKept+".", b.pace.Total)
	case elapsed > b.pace.Grace && float64(b.read) < elapsed.Seconds()*float64(b.pace.MinRate):
		return calpe.Errorf(calpe.CodeSlowClient,
			"The body came at less than %d bytes a second; "+nothingKept+".", b.pace.MinRate)
	}
	return nil
}

// clientError gives the errors of a body that are the client's a code; others
// pass as they are. So does what has a code: a database connection that breaks
// off is an unexpected end of file too, and not the client's.
func clientError(err error) error {
	var tooLarge *http.MaxBytesError
	_, coded := errors.AsType[*calpe.Error](err)
	switch {
	case err == nil || coded || errors.Is(err, io.EOF):
		return err
	case errors.As(err, &tooLarge):
		return &calpe.Error{Code: calpe.CodeTooLarge, Message: "The request is larger than this service takes.", Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &calpe.Error{Code: calpe.CodeSlowClient, Message: "Nothing arrived for too long; " + nothingKept + ".", Err: err}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "The body ended before its end; " + nothingKept + ".", Err: err}
	}
	return err
}
