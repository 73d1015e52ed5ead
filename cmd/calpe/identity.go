package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/calpe/calpe/receipt"
)

// pinning is the flag by which the identity of a log is pinned.
type pinning struct {
	Identity string `help:"File with the log identity to trust, as \"calpe identity\" prints it." variable:"CALPE_IDENTITY" placeholder:"FILE"`
}

// pinned reads the identity file; nil if none was given.
func (p pinning) pinned() (*receipt.Identity, error) {
	if p.Identity == "" {
		return nil, nil
	}
	data, err := readFile(p.Identity, receipt.MaxIdentitySize)
	if err != nil {
		return nil, fmt.Errorf("log identity: %w", err)
	}
	id, err := receipt.ParseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown(p.Identity), err)
	}
	return &id, nil
}

// identity is the pinned one, or else what the service says of itself: then
// everything is checked against that, and the notice says what it is worth.
func (p pinning) identity(ctx context.Context, s *service) (receipt.Identity, error) {
	id, err := p.pinned()
	if err != nil {
		return receipt.Identity{}, err
	}
	if id != nil {
		return *id, nil
	}
	fetched, err := s.identity(ctx)
	if err != nil {
		return receipt.Identity{}, err
	}
	s.notice("The log identity is not pinned: %s says it is %s, %s. Compare the hash with one from another source, and give the file as --identity.",
		s.base.Host, fetched.Origin, fetched.Hash())
	return fetched, nil
}

// identity asks the service who it is. Nobody vouches for the answer.
func (s *service) identity(ctx context.Context) (receipt.Identity, error) {
	data, err := s.do(ctx, call{what: "get the log identity", method: http.MethodGet, path: "v1/identity", limit: receipt.MaxIdentitySize})
	if err != nil {
		return receipt.Identity{}, err
	}
	id, err := receipt.ParseIdentity(data)
	if err != nil {
		return receipt.Identity{}, fmt.Errorf("get the log identity: the service's answer is none: %w", err)
	}
	return id, nil
}

type identityCommand struct {
	connection
}

func (identityCommand) Help() string {
	return `Prints the identity as canonical JSON, and its SHA-256 on the error stream. Whoever keeps that file and gives it as --identity (CALPE_IDENTITY) trusts this log and no other.

Compare the hash with one that comes by another way than from the service itself: the agency's printed letterhead, its website, entry 0 of the public log. A service can claim any identity.`
}

func (c *identityCommand) Run(ctx context.Context, a *app) error {
	s, err := c.open(a, "")
	if err != nil {
		return err
	}
	id, err := s.identity(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.Stdout, "%s\n", id.Canonical()); err != nil {
		return err
	}
	a.notice("hash of the identity of %s (%s): %s", id.Origin, id.Network, id.Hash())
	return nil
}
