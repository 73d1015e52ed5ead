package api

import (
	"net/http"
	"time"
)

// Answered is a request that has its answer. It holds nothing that a client made
// up, so there are few different ones.
type Answered struct {
	Method string        // GET, HEAD, POST, OPTIONS, or "other"
	Route  string        // pattern that the request matched; "none" if there is nothing at its address
	Status int           // 0: it was broken off before a status was sent
	Took   time.Duration // from the request's header to the end of the answer
}

// observe tells of each request.
func (s *Server) observe(next http.Handler) http.Handler {
	return observed(s.cfg.Observe, next, routeOf)
}

// observed tells of each request that next has answered; route says which it was,
// afterwards.
func observed(tell func(Answered), next http.Handler, route func(*http.Request) string) http.Handler {
	if tell == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, answer := time.Now(), &statusWriter{ResponseWriter: w}
		defer func() { // also when the handler aborts
			a := Answered{Method: knownMethod(r.Method), Route: route(r), Status: answer.status, Took: time.Since(start)}
			if a.Route == "" || a.Status == http.StatusMethodNotAllowed {
				a.Route = "none"
			}
			tell(a)
		}()
		next.ServeHTTP(answer, r)
	})
}

// knownMethod bounds what a client can make up.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions:
		return method
	}
	return "other"
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unwrapped is the server's own writer, which [http.MaxBytesReader] tells to close
// the connection.
func unwrapped(w http.ResponseWriter) http.ResponseWriter {
	if s, ok := w.(*statusWriter); ok {
		return s.ResponseWriter
	}
	return w
}
