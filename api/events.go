package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
)

// Streams bounds event streams.
type Streams struct {
	Most      int           // streams at a time, of which half may be without a token; default 512
	Poll      time.Duration // how often the state of the log is read for all of them; default 1 s
	Heartbeat time.Duration // longest silence; default 15 s
	Longest   time.Duration // longest stream; a client that wants more connects again; default 30 min
}

func (s Streams) withDefaults() Streams {
	if s.Most <= 0 {
		s.Most = 512
	}
	if s.Poll <= 0 {
		s.Poll = time.Second
	}
	if s.Heartbeat <= 0 {
		s.Heartbeat = 15 * time.Second
	}
	if s.Longest <= 0 {
		s.Longest = 30 * time.Minute
	}
	return s
}

// eventWriteTime is how long a client may take to receive an event.
const eventWriteTime = 10 * time.Second

// stateEvent is the data of an event.
type stateEvent struct {
	Index uint64      `json:"index"`
	State calpe.State `json:"state"`
}

func (s *Server) getDocumentEvents(w http.ResponseWriter, r *http.Request) error {
	d, _, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	return s.streamStates(w, r, d.Index, false)
}

func (s *Server) getEntryEvents(w http.ResponseWriter, r *http.Request) error {
	index, err := plainNumber(chi.URLParam(r, "index"))
	if err != nil {
		return calpe.Errorf(calpe.CodeInvalidRequest, "The index must be a decimal number without sign and leading zero.")
	}
	return s.streamStates(w, r, index, true)
}

// streamStates sends the state of an entry as server-sent events (WHATWG HTML,
// 9.2): one at once, one at each change, until it is final. The id of an event is
// the state, so that a browser which connects again after the last one learns
// that there is no more (204).
func (s *Server) streamStates(w http.ResponseWriter, r *http.Request, index uint64, stranger bool) error {
	first, err := s.follower.join(r.Context(), stranger)
	if err != nil {
		if r.Context().Err() != nil {
			return nil // nobody is there to be told
		}
		return err
	}
	defer s.follower.leave(stranger)
	state, ok := first.marks.State(index)
	if !ok {
		return calpe.Errorf(calpe.CodeNotFound, "The log has no entry %d.", index)
	}
	w.Header().Set("Cache-Control", "no-store")
	if state == calpe.Final && r.Header.Get("Last-Event-ID") == calpe.Final.String() {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	e := &eventStream{w: w, control: http.NewResponseController(w), now: s.cfg.Now, index: index}
	// What ends a stream early is the client, which is gone, and connects again if it wants.
	_ = s.follow(r, e, first)
	return nil
}

// follow sends states until the last one, or until the client, the server or
// the time ends the stream.
func (s *Server) follow(r *http.Request, e *eventStream, seen reading) error {
	heartbeat := time.NewTicker(s.cfg.Streams.Heartbeat)
	defer heartbeat.Stop()
	end := time.NewTimer(s.cfg.Streams.Longest)
	defer end.Stop()
	for {
		newest, replaced := s.follower.look()
		if newest.number > seen.number {
			seen = newest
		}
		if done, err := e.state(seen); done || err != nil {
			return err
		}
		select {
		case <-replaced:
		case <-heartbeat.C:
			if err := e.send(": still " + e.sent.String() + "\n\n"); err != nil {
				return err
			}
		case <-end.C:
			return nil
		case <-s.follower.stopped:
			return nil
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
}

// eventStream is what one client has been sent.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	now     func() time.Time
	index   uint64
	sent    calpe.State
}

// state sends the entry's state if it is another one than before; done says
// that no other follows.
func (e *eventStream) state(r reading) (done bool, err error) {
	state, ok := r.marks.State(e.index)
	if r.err != nil || !ok || state == e.sent {
		return false, nil //nolint:nilerr // what can't be read now will be said later
	}
	data, err := json.Marshal(stateEvent{e.index, state})
	if err != nil {
		return false, err
	}
	e.sent = state
	err = e.send(fmt.Sprintf("event: state\nid: %s\ndata: %s\n\n", state, data))
	return state == calpe.Final, err
}

func (e *eventStream) send(text string) error {
	// A connection without deadlines (a test's recorder) can't block.
	_ = e.control.SetWriteDeadline(e.now().Add(eventWriteTime))
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}
