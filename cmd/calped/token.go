package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
)

type tokenCommand struct {
	Create tokenCreate `cmd:"" help:"Make a token, and show it this once."`
	List   tokenList   `cmd:"" help:"List the tokens, without what opens anything."`
	Revoke tokenRevoke `cmd:"" help:"Make a token invalid from now on."`
}

type tokenCreate struct {
	Owner string   `required:"" help:"Whose documents it reaches."`
	Label string   `help:"What it is for."`
	Scope []string `help:"What it may do." enum:"documents,commitments" default:"documents,commitments"`
}

const maxOwner = 200

// Run prints nothing but the token, so that a script can catch it.
func (c *tokenCreate) Run(ctx context.Context, a *app) error {
	if len(c.Owner) > maxOwner || strings.TrimSpace(c.Owner) == "" {
		return fmt.Errorf("the owner must have 1 to %d bytes", maxOwner)
	}
	if strings.HasPrefix(c.Owner, "calpe/") {
		return errors.New("owners that start with \"calpe/\" are the service's own")
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	var random [32]byte
	var id calpe.TokenID
	rand.Read(random[:])
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562, version 4
	token := api.TokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	if err := db.CreateToken(ctx, calpe.Token{
		ID: id, Owner: c.Owner, Label: c.Label, Hash: api.HashToken(token), Scopes: c.Scope, Created: a.now().UTC(),
	}); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, token)
	return nil
}

type tokenList struct{}

func (c *tokenList) Run(ctx context.Context, a *app) error {
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	tokens, err := db.Tokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		state := "valid"
		if !t.Revoked.IsZero() {
			state = "revoked " + t.Revoked.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(a.stdout, "%s\t%s\t%s\t%s\t%s\n", t.ID, t.Owner, strings.Join(t.Scopes, ","), state, t.Label)
	}
	return nil
}

type tokenRevoke struct {
	ID string `arg:"" help:"The token's id, as \"calped token list\" shows it."`
}

func (c *tokenRevoke) Run(ctx context.Context, a *app) error {
	id, err := calpe.ParseDocumentID(c.ID) // the same form
	if err != nil {
		return fmt.Errorf("%q is not a token's id as \"calped token list\" shows it", c.ID)
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.RevokeToken(ctx, id, a.now())
}
