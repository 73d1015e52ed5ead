package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// nobody is the user that PostgreSQL sees itself as in a user namespace; it
// must have an entry in /etc/passwd.
const nobody = 65534

// identity says as whom to run the programs: PostgreSQL refuses root. For root
// that is "nobody" in a user namespace, where all files stay root's own and a
// folder that only root may enter will do; or, where user namespaces are
// forbidden, the user postgres or nobody, who is then given dir.
func identity(ctx context.Context, binDir, dir string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	namespace := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}},
	}
	err := try(ctx, binDir, dir, namespace)
	if err == nil {
		return namespace, nil
	}
	errs := []error{fmt.Errorf("in a user namespace: %w", err)}
	for _, name := range []string{"postgres", "nobody"} {
		as, err := become(ctx, name, binDir, dir)
		if err == nil {
			return as, nil
		}
		errs = append(errs, fmt.Errorf("as user %s: %w", name, err))
	}
	return nil, fmt.Errorf("PostgreSQL doesn't run as root, and no other way works; run devstack as another user, or choose folders (this one, and CALPE_DEVSTACK_CACHE) outside root's home:\n%w", errors.Join(errs...))
}

// become gives dir to a user and tries the programs as that user.
func become(ctx context.Context, name, binDir, dir string) (*syscall.SysProcAttr, error) {
	u, err := osuser.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(uid), int(gid))
	})
	if err != nil {
		return nil, err
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return as, try(ctx, binDir, dir, as)
}

// try runs a program that does nothing, in dir: it fails where the identity is
// forbidden, or may not enter dir, or may not read the programs.
func try(ctx context.Context, binDir, dir string, as *syscall.SysProcAttr) error {
	_, err := process.Run(ctx, process.Command{
		Path: filepath.Join(binDir, "initdb"), Args: []string{"--version"},
		Dir: dir, Env: process.Environment(dir), Sys: as,
	})
	return err
}
