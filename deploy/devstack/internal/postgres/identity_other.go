//go:build !linux

package postgres

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// identity says as whom to run the programs: ourselves. PostgreSQL refuses
// root, and only Linux has a way around that needs no set-up.
func identity(context.Context, string, string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("PostgreSQL doesn't run as root: run devstack as another user")
	}
	return nil, nil
}
