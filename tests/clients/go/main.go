// Drives a broker through franz-go: admin calls, an idempotent producer with every codec, a group
// consumer with commits, and a second consumer that takes over where the first one stopped.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const perCodec = 200

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func require(ok bool, format string, args ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
		os.Exit(1)
	}
}

// consume reads n records in the group and commits them; it returns how often each value came.
func consume(ctx context.Context, addr, topic, group string, n int) map[string]int {
	c, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	check("consumer", err)
	defer c.Close()
	seen := map[string]int{}
	for got := 0; got < n; {
		fetches := c.PollRecords(ctx, n-got)
		check("poll", ctx.Err())
		for _, e := range fetches.Errors() {
			check("fetch", e.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			require(len(r.Headers) == 1 && string(r.Headers[0].Value) == "h", "header of %s", r.Value)
			seen[string(r.Value)]++
			got++
		})
		check("commit", c.CommitRecords(ctx, fetches.Records()...))
	}
	return seen
}

func main() {
	addr, topic := os.Args[1], os.Args[2]
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	base, err := kgo.NewClient(kgo.SeedBrokers(addr))
	check("client", err)
	defer base.Close()
	admin := kadm.NewClient(base)
	_, err = admin.CreateTopic(ctx, 6, 1, nil, topic)
	check("create topic", err)

	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(),
		kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	total := 0
	for i, codec := range codecs {
		p, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic),
			kgo.ProducerBatchCompression(codec), kgo.RequiredAcks(kgo.AllISRAcks()))
		check("producer", err)
		for n := 0; n < perCodec; n++ {
			v := fmt.Sprintf("codec%d-%d", i, n)
			p.Produce(ctx, &kgo.Record{Key: []byte(v), Value: []byte(v),
				Headers: []kgo.RecordHeader{{Key: "k", Value: []byte("h")}}},
				func(_ *kgo.Record, err error) { check("produce", err) })
			total++
		}
		check("flush", p.Flush(ctx))
		p.Close()
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	check("list end offsets", err)
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) { check("offset", o.Err); sum += o.Offset })
	require(sum == int64(total), "end offsets sum to %d, not %d", sum, total)

	group := topic + "-group"
	first := consume(ctx, addr, topic, group, total/2)
	second := consume(ctx, addr, topic, group, total-total/2)
	for v, n := range second {
		first[v] += n
	}
	require(len(first) == total, "%d values, not %d", len(first), total)
	for v, n := range first {
		require(n == 1, "%s came %d times", v, n)
	}
	lags, err := admin.Lag(ctx, group)
	check("lag", err)
	lags.Each(func(l kadm.DescribedGroupLag) {
		check("lag", l.Error())
		require(l.Lag.Total() == 0, "lag %d", l.Lag.Total())
	})
	_, err = admin.DeleteGroups(ctx, group)
	check("delete group", err)
	_, err = admin.DeleteTopics(ctx, topic)
	check("delete topic", err)
	fmt.Printf("ok %d records\n", total)
}
