package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

const (
	readyTimeout = time.Minute
	// stopGrace is more than calped gives its running requests.
	stopGrace = 40 * time.Second
	maxAnswer = 64 << 10
)

// Server is a running calped.
type Server struct {
	URL     string // http://host:port
	LogFile string
	proc    *process.Process
}

// Serve starts calped and returns when it is ready. listen may have the port 0.
// ctx bounds the start only.
func (d *Deployment) Serve(ctx context.Context, listen string) (*Server, error) {
	s := &Server{LogFile: d.LogFile()}
	before, err := size(s.LogFile)
	if err != nil {
		return nil, err
	}
	s.proc, err = process.Start(context.WithoutCancel(ctx), process.Config{
		Name: "calped", Path: d.cfg.Calped, Args: []string{"serve", "--listen", listen}, Dir: d.cfg.Dir,
		Env: process.Environment(d.cfg.Dir, d.program.Env...), Log: s.LogFile, Grace: stopGrace,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := s.proc.WaitReady(ctx, func(ctx context.Context) error { return s.ready(ctx, before) }); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func size(path string) (int64, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

var servingLine = regexp.MustCompile(`(?m)^.* msg=serving address=(\S+) `)

// ready looks in what the server has logged for the address it listens on: at
// that one nobody else answers.
func (s *Server) ready(ctx context.Context, logged int64) error {
	f, err := os.Open(s.LogFile)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, logged, maxAnswer))
	if err != nil {
		return err
	}
	found := servingLine.FindSubmatch(text)
	if found == nil {
		return errors.New("it doesn't listen yet")
	}
	s.URL = "http://" + string(found[1])
	_, err = Get(ctx, s.URL+"/readyz")
	return err
}

// Get fetches a small public document.
func Get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 10 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s: %s", url, res.Status, strings.TrimSpace(string(text)))
	}
	return text, nil
}

// Done is closed when calped has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Failure says how a server ended that nobody stopped.
func (s *Server) Failure() error { return s.proc.Failure() }

// Stop ends calped in order and returns when it is gone.
func (s *Server) Stop() { s.proc.Stop() }
