package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// quota limits how often something public is asked for: by each client network,
// and by all together. Each limit is a token bucket (as GCRA, of ITU-T I.371, in
// which a bucket is the one time at which it will be full again): a minute's
// worth at once, then evenly.
//
// Its memory is bounded by the total: a network is kept only while its bucket
// isn't full, which takes a minute at most after a request that was let through.
type quota struct {
	each, all time.Duration // between two requests of a network, and of everybody
	now       func() time.Time

	mu      sync.Mutex
	shared  time.Time                  // when the total's bucket is full again
	clients map[netip.Prefix]time.Time // when that of a network is
	swept   time.Time
}

const quotaWindow = time.Minute

func newQuota(eachPerMinute, allPerMinute int, now func() time.Time) *quota {
	return &quota{
		each: quotaWindow / time.Duration(eachPerMinute), all: quotaWindow / time.Duration(allPerMinute),
		now: now, clients: map[netip.Prefix]time.Time{}, swept: now(),
	}
}

// take uses up one request of the network, or says how long to wait for the next.
func (q *quota) take(client netip.Prefix) (wait time.Duration, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	q.sweep(now)
	own, wait := spend(q.clients[client], now, q.each)
	if wait > 0 {
		return wait, false
	}
	// Only what is within its own limit uses up the total: one network that asks
	// too much takes nothing from others.
	shared, wait := spend(q.shared, now, q.all)
	if wait > 0 {
		return wait, false
	}
	q.clients[client], q.shared = own, shared
	return 0, true
}

// spend takes one request out of a bucket, or says how long until there is one.
func spend(full, now time.Time, interval time.Duration) (time.Time, time.Duration) {
	if full.Before(now) {
		full = now
	}
	full = full.Add(interval)
	return full, max(0, full.Sub(now)-quotaWindow)
}

// retryAfter is the time to wait in whole seconds, as the header has it.
func retryAfter(wait time.Duration) string { return strconv.Itoa(wholeSeconds(wait)) }

// wholeSeconds rounds up, so that who waits doesn't come too early.
func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// sweep forgets, once a minute, the networks whose buckets are full.
func (q *quota) sweep(now time.Time) {
	if now.Sub(q.swept) < quotaWindow {
		return
	}
	q.swept = now
	for client, full := range q.clients {
		if !full.After(now) {
			delete(q.clients, client)
		}
	}
}

// network is what counts as one client: an IPv4 /24, or an IPv6 /64, which is
// what one subscriber gets. Addresses that can't be told are one client.
func network(addr netip.Addr) netip.Prefix {
	bits := 64
	if addr = addr.Unmap(); addr.Is4() {
		bits = 24
	}
	prefix, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// clientAddress is who sent the request. Of X-Forwarded-For it believes what
// trusted proxies added, from the right: the first address that is none of
// theirs is the client's, and what stands before it anybody may have written.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	addr := parseAddress(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && isTrusted(addr, trusted); i-- {
		hop := parseAddress(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		addr = hop
	}
	return addr
}

func isTrusted(addr netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// parseAddress reads an address with or without a port; invalid if it is neither.
func parseAddress(text string) netip.Addr {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return both.Addr().Unmap()
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap()
}
