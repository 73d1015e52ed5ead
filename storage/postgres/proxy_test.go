package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// fault is what a [proxy] does to the next COMMIT.
type fault int

const (
	none           fault = iota
	cutBefore            // the connection is cut before COMMIT reaches the server
	cutAfter             // COMMIT is applied, then the connection is cut before the answer
	silentBefore         // COMMIT is swallowed, both connections stay open
	silentAfter          // COMMIT is applied, the answer is swallowed, both connections stay open
	cutThenDeliver       // the client is cut off, and COMMIT reaches the server after onStrike
)

// proxy stands between a client and the server and understands as much of the
// protocol as it takes to see a COMMIT go by.
type proxy struct {
	tb       testing.TB
	listener net.Listener

	mu     sync.Mutex
	server string // where connections go
	next   string // where they go after the fault, if not empty
	armed  fault
	refuse int // how many connections to refuse after the fault; -1: all
	conns  []net.Conn

	onStrike func(upstream net.Conn) // called when the fault has happened, before the client can notice
}

// newProxy gives a proxy to the server of rawURL, and the URL through it.
func newProxy(tb testing.TB, rawURL string) (*proxy, string) {
	tb.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{tb: tb, listener: l, server: u.Host}
	tb.Cleanup(p.close)
	go p.accept()
	u.Host = l.Addr().String()
	q := u.Query()
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return p, u.String()
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

// arm makes the next COMMIT fail, and the refuse connections after it.
func (p *proxy) arm(f fault, refuse int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.refuse = f, refuse
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refused := p.armed == none && p.refuse != 0
		if refused && p.refuse > 0 {
			p.refuse--
		}
		server := p.server
		p.mu.Unlock()
		if refused {
			client.Close()
			continue
		}
		upstream, err := net.Dial("tcp", server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, upstream)
		p.mu.Unlock()
		pair := &pair{proxy: p, client: client, upstream: upstream, answer: make(chan struct{})}
		go pair.toServer()
		go pair.toClient()
	}
}

// take disarms the proxy; one COMMIT strikes.
func (p *proxy) take() fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.armed
	if f != none && p.next != "" {
		p.server = p.next
	}
	p.armed = none
	return f
}

// pair is one client's connection.
type pair struct {
	*proxy
	client, upstream net.Conn
	deaf             atomic.Bool // the client hears nothing any more
	answer           chan struct{}
}

// toServer forwards messages one by one. The first one has no type byte.
func (c *pair) toServer() {
	defer c.upstream.Close()
	for first := true; ; first = false {
		message, err := readMessage(c.client, first)
		if err != nil {
			return
		}
		if !first && message[0] == 'Q' && bytes.Equal(message[5:], []byte("commit\x00")) {
			if f := c.take(); f != none {
				c.strike(f, message)
				return
			}
		}
		if _, err := c.upstream.Write(message); err != nil {
			return
		}
	}
}

func (c *pair) strike(f fault, commit []byte) {
	c.deaf.Store(true)
	if f == cutAfter || f == silentAfter {
		c.forward(commit)
	}
	if f == cutThenDeliver {
		c.client.Close()
	}
	if c.onStrike != nil {
		c.onStrike(c.upstream)
	}
	if f == cutThenDeliver {
		c.forward(commit)
	}
	if f == silentBefore || f == silentAfter {
		_, _ = io.Copy(io.Discard, c.client) // until the client gives up
	}
	c.client.Close()
}

// forward sends COMMIT and waits until it is applied.
func (c *pair) forward(commit []byte) {
	if _, err := c.upstream.Write(commit); err != nil {
		c.tb.Errorf("proxy: forward COMMIT: %v", err)
	}
	<-c.answer
}

// toClient forwards the server's bytes, until the client is deaf.
func (c *pair) toClient() {
	defer close(c.answer)
	buf := make([]byte, 1<<16)
	for {
		n, err := c.upstream.Read(buf)
		if c.deaf.Load() {
			return
		}
		if n > 0 {
			if _, err := c.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			c.client.Close()
			return
		}
	}
}

func readMessage(r io.Reader, first bool) ([]byte, error) {
	head := make([]byte, 5)
	if first {
		head = head[:4]
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[len(head)-4:])
	message := append(head, make([]byte, size-4)...)
	_, err := io.ReadFull(r, message[len(head):])
	return message, err
}
