package api

import "net/netip"

// For the tests of the limit on look-ups.
var (
	ClientAddress = clientAddress
	NewQuota      = newQuota
	Network       = network
)

// Take is take, without the time to wait.
func (q *quota) Take(client netip.Prefix) bool {
	_, ok := q.take(client)
	return ok
}

// Clients is how many networks are remembered.
func (q *quota) Clients() int { return len(q.clients) }
