package vmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// serviceClients are the programs that speak to a service, the first of which is taken
// unless the user names another one.
var serviceClients = map[string][]string{
	"mysql": {"mysql", "mariadb", "mysqldump"}, "postgresql": {"psql", "pg_dump"}, "redis": {"redis-cli"},
}

func tunnelCommand(v *vmc) *cobra.Command {
	var port int
	c := v.command(&cobra.Command{
		Use:   "tunnel SERVICE [CLIENT [ARGUMENT...]]",
		Short: "Connect to a service of yours, with your own programs",
		Long: `tunnel opens a port on this machine, 127.0.0.1 only, that leads to a service of yours,
through the cloud's API. With a client (mysql, psql, redis-cli, or "none" for none) it
starts that with user, password and database in its environment, never in its arguments,
and ends with it; without one it prints where to connect and stays until Ctrl-C.
What is connected may do what the owner may. A connection that is idle for long (10 minutes,
unless the cloud says otherwise) is ended.`,
		Example: "  vmc tunnel db psql\n  vmc tunnel db --port 15432\n  vmc tunnel cache redis-cli -- INFO memory\n  vmc tunnel db pg_dump > db.sql",
		Args:    cobra.MinimumNArgs(1),
	}, ofService(func(ctx context.Context, c *client.Client, args []string) error {
		if port < 0 || port > 65535 {
			return fmt.Errorf("%d is no port", port)
		}
		// The first connection says what is there, and that the user may.
		first, err := client.DataOf(c, args[0]).Tunnel(ctx)
		if err != nil {
			return err
		}
		first.Close()
		t := tunnelOf{v, c, args[0], first.Vendor, first.Credentials}
		known := serviceClients[first.Vendor]
		if len(args) > 1 && args[1] != "none" {
			if !slices.Contains(known, args[1]) {
				return fmt.Errorf("vmc knows how to start %s for a %s, not %q; vmc tunnel %s alone prints where to connect", strings.Join(append(known, "none"), ", "), first.Vendor, args[1], args[0])
			}
			if _, err := exec.LookPath(args[1]); err != nil {
				return fmt.Errorf("cannot start %s: %w; install it, or connect with another program: vmc tunnel %s", args[1], err, args[0])
			}
		}
		return t.serve(ctx, port, args[1:])
	}))
	c.Flags().IntVar(&port, "port", 0, "the local port; by default one that is free")
	return c
}

// tunnelOf leads to one service.
type tunnelOf struct {
	*vmc
	api         *client.Client
	service     string
	vendor      string
	credentials map[string]any
}

func (t tunnelOf) text(field string) string { s, _ := t.credentials[field].(string); return s }

// serve listens, and runs the client or waits for the end of ctx.
func (t tunnelOf) serve(ctx context.Context, port int, command []string) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("cannot listen on 127.0.0.1: %w; choose another --port", err)
	}
	port = listener.Addr().(*net.TCPAddr).Port
	withClient := len(command) > 0 && command[0] != "none"
	base := ctx
	if withClient {
		base = context.WithoutCancel(ctx) // Ctrl-C is the client's, as when it ends a query
	}
	working, cancel := context.WithCancel(base)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	context.AfterFunc(working, func() { _ = listener.Close() })
	all.Go(func() { t.accept(working, &all, listener) })
	if withClient {
		return t.run(port, command)
	}
	if t.json {
		err = t.printJSONLine(map[string]any{"service": t.service, "vendor": t.vendor, "host": "127.0.0.1", "port": port, "credentials": t.credentials})
	} else {
		table := newTable("HOST", "PORT", "USER", "PASSWORD", "DATABASE")
		table.row("127.0.0.1", strconv.Itoa(port), t.text("username"), t.text("password"), t.text("name"))
		err = table.print(t.out)
	}
	if err != nil {
		return err
	}
	t.say("%s is at 127.0.0.1:%d until you press Ctrl-C.", t.service, port)
	<-ctx.Done()
	return nil
}

// accept gives each local connection one to the service.
func (t tunnelOf) accept(ctx context.Context, all *sync.WaitGroup, listener net.Listener) {
	for {
		local, err := listener.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer local.Close()
			stop := context.AfterFunc(ctx, func() { _ = local.Close() })
			defer stop()
			far, err := client.DataOf(t.api, t.service).Tunnel(ctx)
			if err == nil {
				defer far.Close()
				err = far.Relay(ctx, local)
			}
			if err != nil && ctx.Err() == nil {
				t.say("%v", err)
			}
		})
	}
}

// run runs a client on the local port. What it must know is in its environment, where
// other users do not see it.
func (t tunnelOf) run(port int, command []string) error {
	environment, args := clientFor(command[0], port, t.text("username"), t.text("password"), t.text("name"))
	cmd := exec.Command(command[0], append(args, command[1:]...)...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.in, t.out, t.err
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", command[0], err)
	}
	finished := make(chan error, 1)
	go func() { finished <- cmd.Wait() }()
	var err error
	for waiting := true; waiting; {
		select {
		case err = <-finished:
			waiting = false
		case s := <-signals:
			if s == syscall.SIGTERM { // the terminal gives the other one to the client as well
				_ = cmd.Process.Signal(s) // it may have ended
			}
		}
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() > 0 {
		return exitStatus(ended.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("%s failed: %w", command[0], err)
	}
	return nil
}

// clientFor returns a client's environment and its first arguments.
func clientFor(program string, port int, user, password, database string) (environment, args []string) {
	at := strconv.Itoa(port)
	switch program {
	case "psql", "pg_dump":
		return []string{"PGHOST=127.0.0.1", "PGPORT=" + at, "PGUSER=" + user, "PGPASSWORD=" + password, "PGDATABASE=" + database, "PGSSLMODE=disable"}, nil
	case "redis-cli":
		return []string{"REDISCLI_AUTH=" + password}, []string{"-h", "127.0.0.1", "-p", at, "--user", user}
	}
	args = []string{"--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--port=" + at, "--user=" + user}
	if program == "mysqldump" {
		return []string{"MYSQL_PWD=" + password}, append(args, "--single-transaction", database)
	}
	return []string{"MYSQL_PWD=" + password}, append(args, "--database="+database)
}
