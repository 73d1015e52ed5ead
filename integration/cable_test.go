package integration

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// cable is what one server reaches the database through. It can be cut: nothing
// passes any more, in either direction, and neither end is told.
type cable struct {
	url      string
	target   string
	listener net.Listener

	mu    sync.Mutex
	ends  []net.Conn    // both of each connection
	ports map[int]bool  // of our ends towards the database
	whole chan struct{} // closed while bytes pass
}

func newCable(t testing.TB, database string) *cable {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{target: u.Host, listener: listener, ports: map[int]bool{}, whole: make(chan struct{})}
	close(w.whole)
	u.Host = listener.Addr().String()
	w.url = u.String()
	t.Cleanup(func() {
		listener.Close()
		w.mend(true)
	})
	go w.accept()
	return w
}

func (w *cable) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		go w.carry(client)
	}
}

func (w *cable) carry(client net.Conn) {
	<-w.passes()
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		client.Close()
		return
	}
	var port int
	if a, ok := server.LocalAddr().(*net.TCPAddr); ok {
		port = a.Port
	}
	w.mu.Lock()
	w.ends = append(w.ends, client, server)
	w.ports[port] = true
	w.mu.Unlock()
	go w.pump(client, server)
	w.pump(server, client)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ports, port) // it may be another cable's next
}

// pump passes bytes on. What comes while the cable is cut waits in it.
func (w *cable) pump(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		<-w.passes()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *cable) passes() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.whole
}

func (w *cable) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = make(chan struct{})
}

// mend lets bytes pass again, those that were held first; or it ends the
// connections that there were, and with them what they held.
func (w *cable) mend(fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if fresh {
		for _, end := range w.ends {
			end.Close()
		}
		w.ends = nil
	}
	select {
	case <-w.whole:
	default:
		close(w.whole)
	}
}

// carries reports whether a connection that the database sees goes through here.
func (w *cable) carries(port int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ports[port]
}
