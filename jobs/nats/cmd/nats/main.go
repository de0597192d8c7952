// Command nats is the program of the job nats.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/jobs/nats"
)

func main() {
	config := flag.String("c", "nats.yml", "config `file`")
	verify := flag.Duration("verify", 0, "wait this long until the running server uses the files as they are, instead of serving")
	answers := flag.Duration("answers", 0, "find out within this time whether the running server answers, instead of serving")
	census := flag.Bool("census", false, "say what lives in the server's files, instead of serving")
	flag.Parse()
	if *census {
		if err := nats.Census(*config, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "nats:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(*config, *verify, *answers); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run(config string, verify, answers time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Before anything else: a reload that comes early must not end the process.
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)

	cfg, err := nats.ReadConfig(config)
	if err != nil {
		return err
	}
	if verify > 0 {
		ctx, cancel := context.WithTimeout(ctx, verify)
		defer cancel()
		return nats.Verify(ctx, cfg)
	}
	if answers > 0 {
		ctx, cancel := context.WithTimeout(ctx, answers)
		defer cancel()
		return nats.Answers(ctx, cfg)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server, err := nats.New(cfg, log)
	if err != nil {
		return err
	}

	running, stopped := context.WithCancel(ctx)
	var reloader sync.WaitGroup
	defer reloader.Wait()
	defer stopped()
	reloader.Go(func() {
		for {
			select {
			case <-reloads:
				if err := server.Reload(); err != nil {
					log.Error("reload failed", "error", err)
				}
			case <-running.Done():
				return
			}
		}
	})
	return server.Run(ctx)
}
