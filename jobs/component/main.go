package component

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Main is the main function of a component's program: it reads the flag -c (else
// name.yml in the folder CLOUD_FOUNDRY_CONFIG_PATH, as the original), runs, and
// returns the exit status. SIGTERM and SIGINT end run's context; the second of
// them ends the process.
func Main(name string, run func(context.Context, Process) error) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	config := flags.String("c", "", "the configuration `file`")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return 2
	}
	if *config == "" {
		folder := os.Getenv("CLOUD_FOUNDRY_CONFIG_PATH")
		if folder == "" {
			fmt.Fprintf(os.Stderr, "%s: no configuration, give one with -c\n", name)
			return 2
		}
		*config = filepath.Join(folder, name+".yml")
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)

	err := run(ctx, Process{
		ConfigFile: *config,
		Control:    os.Getenv("DEPLOY_CONTROL"),
		Address:    os.Getenv("DEPLOY_ADDRESS"),
		Hangup:     hangup,
		Output:     os.Stderr,
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}
