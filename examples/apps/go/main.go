// Command hello answers with who it is: a program that is built before it is
// pushed, and needs nothing where it runs.
//
//	CGO_ENABLED=0 go build -o target/hello .
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	me := struct {
		Name  string `json:"name"`
		Index int    `json:"instance_index"`
	}{Name: "go"}
	if about := os.Getenv("VCAP_APPLICATION"); about != "" {
		if err := json.Unmarshal([]byte(about), &me); err != nil {
			log.Fatal("cannot read VCAP_APPLICATION: ", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var leaving atomic.Bool
	server := &http.Server{
		Addr:        ":" + os.Getenv("VCAP_APP_PORT"),
		IdleTimeout: 90 * time.Second, // longer than any router keeps a connection
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if leaving.Load() {
				w.Header().Set("Connection", "close")
			}
			size, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "Hello from %s/%d, in %s", me.Name, me.Index, runtime.Version())
			if size > 0 {
				fmt.Fprintf(w, ", %d bytes read", size)
			}
			fmt.Fprintln(w)
		}),
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		<-ctx.Done()
		// Routers keep an idle connection for 2 s: until then a request may be under
		// way on it, and closing it would lose that request.
		leaving.Store(true)
		time.Sleep(3 * time.Second)
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print("cannot finish: ", err)
		}
	}()
	log.Print("serving on port ", os.Getenv("VCAP_APP_PORT"))
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal("cannot serve: ", err)
	}
	<-left
}
